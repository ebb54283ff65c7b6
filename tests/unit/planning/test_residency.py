"""Who stays awake and who sleeps, with memory sizes made up for it."""

from __future__ import annotations

import pytest

from distft.planning.costs import PCIE
from distft.planning.estimate import Moves
from distft.planning.footprint import GroupMemory
from distft.planning.hardware import Hardware
from distft.planning.placement_plan import Arrangement
from distft.planning.residency import GIB, said, sleepers, turns_of

FOUR = ("policy", "reference", "reward", "value")
# Policy and value are trained: 40 at the fullest, 30 of states; the others hold 12 and read with 3 more.
GROUPS = {
    name: GroupMemory(40 * GIB, 1 * GIB, 30 * GIB, 30 * GIB, {})
    if name in ("policy", "value")
    else GroupMemory(15 * GIB, 1 * GIB, 12 * GIB, 0, {})
    for name in FOUR
}


def turns(memory: int, members: tuple[str, ...] = FOUR, gpus: int = 1):  # type: ignore[no-untyped-def]
    own = {name: name for name in members}
    arrangement = Arrangement(own, dict.fromkeys(members, "policy"), {"policy": 1})
    return turns_of(GROUPS, arrangement, Hardware(1, 8, gpus, 500 * GIB, memory * GIB, 1))


def test_where_all_fit_nobody_sleeps() -> None:
    found = turns(79, ("policy", "reference"))
    assert found["policy"].awake == ("reference",)
    assert found["reference"].awake == ("policy",)
    assert sleepers(found, ("policy", "reference")) == ()
    assert said(found, ("policy", "reference"), 79 * GIB) == ["awake together: 55 of 79 GiB (policy, reference)"]


@pytest.mark.parametrize("memory", [141, 123])
def test_four_roles_stay_awake_up_to_nine_tenths(memory: int) -> None:
    """110 GiB: 0.78 of a card of 141, 0.894 of one of 123."""
    assert sleepers(turns(memory), FOUR) == ()
    assert sleepers(turns(122), FOUR) != ()


def test_where_some_fit_only_those_sleep_that_must() -> None:
    """78 GiB, of which 70 are used: a trained role, both frozen ones and the sleeper's process would take 71."""
    found = turns(78)
    assert found["policy"].awake == ("reference",)
    assert found["policy"].asleep == ("reward", "value")
    assert found["policy"].bytes == (40 + 15 + 1 + 1) * GIB
    # 30 GiB of states are spared a move rather than 12.
    assert found["reference"].awake == ("policy",)
    assert found["value"].awake == ("reference",)
    lines = said(found, FOUR, 78 * GIB)
    assert lines[0] == (
        "while policy works beside reference (57 of 78 GiB), reward, value sleep: "
        "all awake would take 110, and 90% is used"
    )
    assert len(lines) == 4


def test_where_none_fit_everybody_sleeps_in_turn() -> None:
    found = turns(46)
    assert all(not turn.awake for turn in found.values() if turn.bytes > 40 * GIB)
    assert found["policy"].asleep == ("reference", "reward", "value")
    assert found["policy"].bytes == 43 * GIB
    assert sleepers(found, FOUR) == FOUR


def test_where_nothing_is_known_of_the_gpu_everybody_sleeps_and_on_cpus_nobody() -> None:
    assert all(turn.awake == () for turn in turns(0).values())
    assert all(turn.asleep == () for turn in turns(0, gpus=0).values())


def test_what_is_frozen_comes_back_and_never_leaves() -> None:
    moves = Moves(GROUPS, turns(46))
    assert moves.seconds({"reference"}, "policy") == 30 * GIB / PCIE
    assert moves.seconds({"policy"}, "reference") == (30 + 12) * GIB / PCIE
    assert moves.seconds((), "reward") == 12 * GIB / PCIE
