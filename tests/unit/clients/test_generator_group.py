"""What the controller gets of responses that lie with the workers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from distft.clients.generator_group import GeneratorGroup
from distft.clients.samples import Samples
from distft.common.errors import RunFailed
from distft.groups.handles import Call, DataRef, Part, Result
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


class Behind(Said):
    """The second rank answers with the weights before the last."""

    def _answer(self, call: Call[Any]) -> Result[Any]:
        result = super()._answer(call)
        return replace(result, reports=(result.report, replace(result.report, version=-1)))


def test_ranks_that_answer_with_different_weights_end_the_attempt() -> None:
    group = GeneratorGroup(Fake("rollout", Behind(), num_ranks=2))
    with pytest.raises(RunFailed, match="weights of versions -1, 0"):
        group.generate(SAMPLES, Sampling(4), [[[0, 2]], [[1]]], seed=1, iteration=2).result()
