"""An epoch is an epoch."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.common.errors import UserError
from distft.config.training import Train
from distft.controller.visits import Visits, total_steps


def batches(train: Train, num_units: int) -> list[tuple[int, int]]:
    """Start and number of units of every step."""
    visits, position, taken = Visits.of(train, num_units), 0, []
    for _ in range(total_steps(train, num_units)):
        start, count = visits.take(position)
        taken.append((start, count))
        position = start + count
    return taken


CASES: list[tuple[dict[str, Any], int, list[tuple[int, int]]]] = [
    ({"epochs": 1.0, "global_batch_size": 64}, 6, [(0, 6)]),  # was one step over 64 rows: epoch 10.67
    ({"epochs": 2.0, "global_batch_size": 4}, 6, [(0, 4), (4, 2), (6, 4), (10, 2)]),
    ({"epochs": 1.5, "global_batch_size": 4}, 6, [(0, 4), (4, 2), (6, 3)]),
    ({"epochs": 0.5, "global_batch_size": 4}, 6, [(0, 3)]),
    ({"epochs": 2.0, "global_batch_size": 4, "last_batch": "drop"}, 6, [(0, 4), (6, 4)]),
    ({"epochs": 2.0, "global_batch_size": 4, "last_batch": "fill"}, 6, [(0, 4), (4, 4), (8, 4)]),
    ({"steps": 3, "global_batch_size": 4}, 6, [(0, 4), (4, 4), (8, 4)]),
    ({"steps": 3, "global_batch_size": 4, "last_batch": "smaller"}, 6, [(0, 4), (4, 2), (6, 4)]),
    ({"steps": 1, "global_batch_size": 64}, 6, [(0, 64)]),
]


@pytest.mark.parametrize(("train", "num_units", "expected"), CASES)
def test_batches(train: dict[str, Any], num_units: int, expected: list[tuple[int, int]]) -> None:
    assert batches(Train(**train), num_units) == expected


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 4))
def test_whole_epochs_visit_every_unit_as_often(num_units: int, batch: int, epochs: int) -> None:
    taken = batches(Train(epochs=float(epochs), global_batch_size=batch), num_units)
    assert sum(count for _, count in taken) == epochs * num_units
    assert all(start // num_units == (start + count - 1) // num_units for start, count in taken)


@given(st.integers(1, 40), st.integers(1, 50), st.floats(0.1, 4.0), st.sampled_from(["smaller", "fill"]))
def test_a_run_that_goes_on_takes_what_it_would_have_taken(
    num_units: int, batch: int, epochs: float, last_batch: Any
) -> None:
    train = Train(epochs=epochs, global_batch_size=batch, last_batch=last_batch)
    taken = batches(train, num_units)
    for step, (start, count) in enumerate(taken, 1):
        assert total_steps(train, num_units, step=step, position=start + count) == len(taken)


@given(st.integers(4, 40), st.integers(1, 4), st.integers(0, 30), st.sampled_from(["smaller", "drop", "fill"]))
def test_the_position_after_some_steps(num_units: int, batch: int, steps: int, last_batch: Any) -> None:
    train = Train(steps=max(1, steps), global_batch_size=batch, last_batch=last_batch)
    visits = Visits.of(train, num_units)
    taken = [visits.take(visits.position_after(step)) for step in range(steps)]
    assert [sum(one) for one in taken] == [visits.position_after(step + 1) for step in range(steps)]
    if last_batch == "fill":
        assert visits.position_after(steps) == steps * batch
    half = steps // 2
    assert visits.position_after(steps - half, visits.position_after(half)) == visits.position_after(steps)


@pytest.mark.parametrize(("train", "left_out", "expected"), [
    ({"steps": 3}, {4: 12}, [(0, 4), (12, 4), (16, 4)]),
    ({"steps": 3}, {0: 4, 8: 10}, [(4, 4), (10, 4), (14, 4)]),
    ({"steps": 3}, {4: 8, 8: 12}, [(0, 4), (12, 4), (16, 4)]),  # one right behind the other
    ({"steps": 2}, {4: 20, 8: 12}, [(0, 4), (20, 4)]),  # the second went back before the first
    ({"steps": 2}, {2: 6}, [(0, 4), (6, 4)]),  # a checkpoint of another batch size
    ({"epochs": 2.0}, {4: 12}, [(0, 4), (12, 4), (16, 4)]),  # of ten rows each
    ({"epochs": 2.0, "last_batch": "smaller"}, {4: 8}, [(0, 4), (8, 2), (10, 4), (14, 4), (18, 2)]),
    ({"epochs": 2.0, "last_batch": "drop"}, {4: 8}, [(0, 4), (10, 4), (14, 4)]),
    ({"epochs": 2.0, "last_batch": "fill"}, {4: 8, 12: 16}, [(0, 4), (8, 4), (16, 4)]),
    ({"epochs": 2.0}, {4: 20}, [(0, 4)]),  # to the end
])  # fmt: skip
def test_what_is_left_out_is_passed_over(
    train: dict[str, Any], left_out: dict[int, int], expected: list[tuple[int, int]]
) -> None:
    of = Train(**train, global_batch_size=4)
    visits, position, taken = Visits.of(of, 10, left_out), 0, []
    for step in range(len(expected)):
        assert total_steps(of, 10, step=step, position=position, left_out=left_out) == len(expected)
        start, count = visits.take(position)
        taken.append((start, count))
        position = start + count
    assert taken == expected
    assert visits.position_after(len(expected)) == position


def test_a_run_that_began_with_another_batch_goes_on_from_where_it_stands() -> None:
    """100 steps of 32, and then 100 of 8."""
    visits = Visits.of(Train(steps=200, global_batch_size=8, last_batch="fill"), 1000)
    assert visits.position_after(100, 3200) == 4000


def test_no_batch_at_all_is_refused_with_what_would_do() -> None:
    with pytest.raises(UserError, match="6 rows has no batch of 64.*\n.*train.last_batch=smaller"):
        total_steps(Train(epochs=1.0, global_batch_size=64, last_batch="drop"), 6)
    with pytest.raises(UserError, match=r"0\.5 epochs of 6 rows have no whole batch of 4"):
        total_steps(Train(epochs=0.5, global_batch_size=4, last_batch="drop"), 6)
