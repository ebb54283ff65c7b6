"""What is said of a sync that is not what it should be; and that a right one is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distft.clients.generator_group import EngineGroup
from distft.controller.invariants import InvariantViolated
from distft.controller.weight_sync import WeightSync, check_sync
from distft.workers.reports import Sent
from tests.harness.fake_groups import Fake, Said

SENT = Sent(5, 1000, 0.1, (-1.0, -2.0, -20.0))
BEFORE = Sent(4, 1000, 0.1, (-1.5, -2.5, -19.0))


def test_engines_with_the_same_weights_are_left_alone() -> None:
    rounded = replace(SENT, logprobs=(-1.00001, -2.0, -20.00001))
    check_sync("float32", 5, SENT, [SENT, rounded], (BEFORE, [BEFORE, BEFORE]))
    check_sync("float32", 5, SENT, [SENT], (SENT, [SENT]))  # an update that changed nothing


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (replace(SENT, version=4), "weight sync 5, engine 1: skipped: it still answers with version 4"),
        (replace(SENT, bytes=600), "engine 1: partial: 600 of 1,000 bytes came"),
        (replace(SENT, logprobs=BEFORE.logprobs), "engine 1: its log-probs of known tokens differ .* by 0.6667 nats"),
        (replace(SENT, logprobs=(-1.0, float("nan"), -20.0)), "differ from the trainer's by nan"),
    ],
)
def test_what_is_wrong_is_named_with_the_engine(engine: Sent, said: str) -> None:
    with pytest.raises(InvariantViolated, match=said):
        check_sync("float32", 5, SENT, [SENT, engine], None)


def test_a_stale_engine_is_found_below_what_rounding_explains() -> None:
    """In bfloat16 two right ones may be 0.2 nats apart, but a generator that does not move has no new weights."""
    moved = replace(SENT, logprobs=(-1.1, -2.1, -20.1))
    right = replace(SENT, logprobs=(-1.06, -2.12, -20.08))
    was = replace(right, logprobs=(-0.98, -2.01, -19.9))
    check_sync("bfloat16", 5, moved, [right], (SENT, [was]))
    with pytest.raises(InvariantViolated, match="stale: the trainer's log-probs .* moved by 0.1 nats since version 5"):
        check_sync("bfloat16", 5, moved, [was], (SENT, [was]))


def test_both_ends_are_at_it_at_the_same_time_and_the_last_proof_is_kept() -> None:
    said = Said()
    sync = WeightSync(EngineGroup(Fake("rollout", said, num_ranks=2), Fake("policy", said), ("host", 1)), "float32")
    sync.sync(0)
    sync.sync(1)
    assert said.at_once == [("rollout.receive_weights", "policy.send_weights")] * 2
    assert [call.args for call in said.calls] == [(("host", 1), 0), (2, 0), (("host", 1), 1), (2, 1)]
    said.probes = {"policy": (-1.0, -2.1), "rollout": (-1.0, -2.00001)}
    with pytest.raises(InvariantViolated, match="stale: .* since version 1"):
        replace(sync, dtype="bfloat16").sync(2)
