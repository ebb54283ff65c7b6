"""What is said of a sync that is not what it should be; and that a right one is left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from distft.clients.generator_group import EngineGroup
from distft.common.errors import RunFailed
from distft.controller.invariants import InvariantViolated
from distft.controller.weight_sync import WeightSync, check_sync
from distft.groups.handles import Call, Result
from distft.workers.reports import Sent
from distft.workers.verbs import EngineVerbs, GeneratorVerbs
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
    assert [call.args for call in said.calls] == [(("host", 1), 0, 0), (2, 0, 0), (("host", 1), 1, 0), (2, 1, 0)]
    said.probes = {"policy": (-1.0, -2.1), "rollout": (-1.0, -2.00001)}
    with pytest.raises(InvariantViolated, match="stale: .* since version 1"):
        replace(sync, dtype="bfloat16").sync(2)


class Breaking(Said):
    """The policy's way to two engines breaks in the syncs in ``broken``: the second engine has died, or nobody. While
    the policy sends as ``probed`` says, one dies that has received all."""

    broken: dict[int, bool]
    probed: tuple[int, ...] = ()
    syncs = sends = 0

    def _answer(self, call: Call[Any]) -> Result[Any]:
        result = super()._answer(call)
        if call.verb.name == "send_weights":
            self.sends += 1
            renew = self.asked(EngineVerbs.receive_weights)[-1].renew
            assert renew is not None
            assert self.sends not in self.probed or not renew(), "the sync that is going on does it"
        if call.verb.name == "receive_weights":
            self.syncs += 1
            if self.syncs in self.broken:
                cut = replace(result.report, broken="Connection closed by peer")
                return replace(result, reports=(cut, None if self.broken[self.syncs] else result.report))
        return result


def breaking(**broken: bool) -> tuple[Breaking, WeightSync]:
    said = Breaking()
    said.broken = {int(number.removeprefix("sync_")): died for number, died in broken.items()}
    return said, WeightSync(
        EngineGroup(Fake("rollout", said, num_ranks=2), Fake("policy", said), ("host", 1)), "float32"
    )


def channels(said: Said) -> list[tuple[Any, ...]]:
    return [call.args[1:] for call in said.asked(GeneratorVerbs.send_weights)]


def test_a_sync_in_which_an_engine_died_is_done_again_by_another_channel() -> None:
    said, sync = breaking(sync_2=True, sync_3=True)
    sync.sync(0)
    sync.sync(1)
    sync.sync(2)
    assert channels(said) == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 2)]


def test_one_of_which_an_engine_dies_that_had_received_all_is_done_again() -> None:
    said, sync = breaking()
    said.probed = (1, 3)
    sync.sync(0)
    sync.sync(1)
    assert channels(said) == [(0, 0), (0, 1), (1, 1), (1, 2)]


def test_one_that_broke_though_nobody_died_ends_the_attempt() -> None:
    _, sync = breaking(sync_1=False)
    with pytest.raises(RunFailed, match="weight sync 0: Connection closed by peer"):
        sync.sync(0)


def test_an_engine_in_a_dead_ones_place_gets_what_the_policy_has_since_the_last_sync() -> None:
    said, sync = breaking()
    sync.sync(0)
    renew = said.asked(EngineVerbs.receive_weights)[-1].renew
    assert renew is not None
    assert renew()
    sync.policy_learns()
    assert not renew(), "the weights of that version are nowhere any more"
    sync.sync(1)
    assert renew()
    assert channels(said) == [(0, 0), (0, 1), (1, 2), (1, 3)]
