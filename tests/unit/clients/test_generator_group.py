"""What the controller gets of responses that lie with the workers."""

from __future__ import annotations

from distft.clients.generator_group import GeneratorGroup
from distft.clients.samples import Samples
from distft.groups.handles import DataRef, Part
from distft.rollout.generator import Sampling
from tests.harness.fake_groups import RESPONSE, Fake, Said

SAMPLES = Samples((DataRef((Part("a", (0, 1, 2)),)),), (5, 6, 7), (0, 1, 2))


def test_responses_are_told_by_sample() -> None:
    said = Said()
    made = (
        GeneratorGroup(Fake("policy", said))
        .generate(SAMPLES, Sampling(4), [[[0, 2], [1]]], seed=1, iteration=2)
        .result()
    )
    assert made.lengths == dict.fromkeys((0, 1, 2), RESPONSE)
    assert made.responses.samples == (0, 1, 2)
    assert (made.version, made.seconds) == (0, 0.5)
