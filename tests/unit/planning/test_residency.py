"""Who stays awake and who sleeps, with memory sizes made up for it."""

from __future__ import annotations

import pytest

from distft.planning.estimate import Moves
from distft.planning.footprint import GroupMemory
from distft.planning.hardware import Hardware
from distft.planning.placement_plan import Arrangement
from distft.planning.residency import GIB, away, said, turns_of

FOUR = ("policy", "reference", "reward", "value")
# Policy and value are trained: 40 at the fullest, 6 of weights and 24 that a step needs; the others hold 12 and read
# with 2 more.
GROUPS = {
    name: GroupMemory(40 * GIB, 1 * GIB, 6 * GIB, 24 * GIB, False, {})
    if name in ("policy", "value")
    else GroupMemory(15 * GIB, 1 * GIB, 12 * GIB, 0, True, {})
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
    assert away(GROUPS, found, ("policy", "reference")) == 0
    assert said(found, ("policy", "reference"), 79 * GIB) == ["awake together: 55 of 79 GiB (policy, reference)"]


@pytest.mark.parametrize("memory", [141, 123])
def test_four_roles_stay_awake_up_to_nine_tenths(memory: int) -> None:
    """110 GiB: 0.78 of a card of 141, 0.894 of one of 123."""
    assert away(GROUPS, turns(memory), FOUR) == 0
    assert turns(122)["policy"].resting


def test_where_all_but_some_states_fit_they_alone_go() -> None:
    """108.9 and 79.2 GiB are used, all awake would take 110 and 95."""
    found = turns(121)
    assert found["policy"].awake == ("reference", "value")
    assert found["policy"].resting == ("reward",), "it moves nothing, and gives back what it reads in"
    assert found["policy"].bytes == (40 + 15 + 13 + 40) * GIB
    three = ("policy", "value", "reference")
    tight = turns(88, three)
    assert (tight["policy"].awake, tight["policy"].resting) == (("reference",), ("value",))
    assert tight["policy"].bytes == (40 + 15 + 7) * GIB
    assert away(GROUPS, tight, three) == 2 * 24 * GIB, "policy's and value's states"
    assert said(tight, three, 88 * GIB)[0] == (
        "while policy works beside reference (62 of 88 GiB), value rests (weights stay): "
        "all awake would take 95, and 90% is used"
    )


def test_where_some_fit_only_those_sleep_that_must() -> None:
    """78 GiB, of which 70 are used: with both trained roles' weights it would be 73."""
    found = turns(78)
    assert (found["policy"].awake, found["policy"].resting) == (("reference",), ("reward",))
    assert found["policy"].asleep == ("value",)
    assert found["policy"].bytes == (40 + 15 + 13 + 1) * GIB
    # 30 GiB are spared a move rather than 24.
    assert "policy" in found["reference"].awake
    lines = said(found, FOUR, 78 * GIB)
    assert lines[0] == (
        "while policy works beside reference (69 of 78 GiB), value sleeps and reward rests (weights stay): "
        "all awake would take 110, and 90% is used"
    )
    assert len(lines) == 4


def test_where_none_fit_everybody_sleeps_in_turn() -> None:
    found = turns(48)
    assert found["policy"].asleep == ("reference", "reward", "value")
    assert found["policy"].bytes == 43 * GIB


def test_where_nothing_is_known_of_the_gpu_everybody_sleeps_and_on_cpus_nobody() -> None:
    assert all(turn.awake == turn.resting == () for turn in turns(0).values())
    assert all(turn.asleep == turn.resting == () for turn in turns(0, gpus=0).values())


def test_what_is_frozen_comes_back_and_never_leaves_and_states_move_for_a_step_only() -> None:
    moves = Moves(GROUPS, turns(0), GIB)
    assert moves.seconds("policy", "update") == 0
    assert moves.seconds("reference", "forward") == 30
    assert moves.seconds("policy", "forward") == 6
    assert moves.seconds("reward", "forward") == 6, "the states are out already"
    assert moves.seconds("reference", "forward") == 12, "comes back; the reward model, frozen too, goes without a move"
    assert moves.seconds("policy", "update") == 30
    assert moves.at_hand("policy")
    assert not moves.at_hand("reference")
