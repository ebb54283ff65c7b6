"""Parameters that pairs of four ranks hold a second time (hpZ): trained, read, renewed, saved and gone on from as
without, and gathered within a pair from the second time on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distft.config.adapters.lora import Lora
from tests.unit.engine import rank_side
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import Setup
from tests.unit.engine.test_engine import spread
from tests.unit.engine.test_resizing import SAVED_AFTER, split

PAIRS = {"hpz_partition_size": 2}
EVERYONE = [0, 1, 2, 3]
STEPS = split(4)


@pytest.fixture(scope="module")
def four() -> Iterator[Group]:
    with Group(4) as group:
        yield group


def check(group: Group, folder: str, steps: list[Any], **told: Any) -> None:
    """What is gathered is the same, wherever from: so is all that is computed, to the last bit."""
    without = group.call(rank_side.train, Setup(folder, **told), steps)
    found = group.call(rank_side.train, Setup(folder, engine=PAIRS, **told), steps)
    for plain, pairs in zip(without, found, strict=True):
        assert pairs["norms"] == plain["norms"]
        assert spread(pairs["weights"], plain["weights"]) == (0.0, 0.0)


def test_two_ranks_that_are_all_learn_as_without(groups: dict[int, Group], folder: str) -> None:
    check(groups[2], folder, split(2))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "adapter", "checkpointing"), [
    ("float32", None, False), ("float32", None, True), ("bfloat16", None, False),
    ("float32", Lora(r=4, alpha=8.0), False),
])  # fmt: skip
def test_it_learns_as_without(four: Group, folder: str, dtype: str, adapter: Lora | None, checkpointing: bool) -> None:
    check(four, folder, STEPS, dtype=dtype, adapter=adapter, checkpointing=checkpointing)


@pytest.mark.slow
def test_a_gone_on_run_is_the_same_bit_for_bit(four: Group, folder: str, tmp_path: Path) -> None:
    setup = Setup(folder, engine=PAIRS)
    told = (setup, str(tmp_path), STEPS[:SAVED_AFTER], STEPS[SAVED_AFTER:])
    wanted = four.call(rank_side.train_and_save, *told)
    found = four.call(rank_side.load_and_go_on, setup, str(tmp_path), STEPS[SAVED_AFTER:])
    for undisturbed, resumed in zip(wanted, found, strict=True):
        assert resumed["norms"] == undisturbed["norms"]
        for column in ("kept", "weights"):
            assert spread(resumed[column], undisturbed[column]) == (0.0, 0.0)
    plain = four.call(rank_side.load_and_go_on, Setup(folder), str(tmp_path), STEPS[SAVED_AFTER:])
    assert plain[0]["norms"] == wanted[0]["norms"], "and goes on without"


@pytest.mark.slow
def test_who_is_asked_for_what_is_gathered(four: Group, folder: str) -> None:
    """The first pass over a step's weights gathers over all four ranks, every later one within the pair; a rank holds
    half of all parameters beside its quarter, and lets go of it with the step, and with a sleep."""
    for rank, found in enumerate(four.call(rank_side.gathered, Setup(folder, engine=PAIRS), STEPS[0])):
        pair = [rank // 2 * 2, rank // 2 * 2 + 1]
        # A tied embedding is gathered twice in a pass.
        assert found["first"] == found["after the step"] == sorted([EVERYONE, pair])
        assert found["later"] == [pair]
        second, shards = found["second shards"], found["parameters"]
        assert second == pytest.approx(2 * shards, rel=0.05)
        assert found["asleep"] == 0
    (plain, *_) = four.call(rank_side.gathered, Setup(folder), STEPS[0])
    assert plain["first"] == plain["later"] == [EVERYONE], "what another engine of the process had is forgotten"
    assert plain["second shards"] == 0


@pytest.mark.slow
def test_weights_from_elsewhere_are_read_at_once(four: Group, folder: str, untied: str, tmp_path: Path) -> None:
    """A frozen model keeps its second shards for good: one that takes over weights reads these, not the former."""
    before, after, theirs = zip(
        *four.call(rank_side.renewed, Setup(folder, optimizer=None, engine=PAIRS), str(tmp_path)), strict=True
    )
    assert before[0] != pytest.approx(theirs[0], abs=1e-3)
    assert after == theirs
