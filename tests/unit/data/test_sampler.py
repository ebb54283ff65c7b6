from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.data.sampler import order, proportional_sample, take

sizes = st.integers(1, 60)
seeds = st.integers(0, 2**40)


@given(sizes, seeds, st.integers(0, 1000))
def test_an_epoch_visits_every_unit_once(num_units: int, seed: int, epoch: int) -> None:
    assert sorted(order(num_units, seed, epoch, shuffle=True).tolist()) == list(range(num_units))


def test_the_order_never_changes_between_versions() -> None:
    # A resumed run on another machine must see the same rows: these figures are a promise.
    assert order(8, seed=1, epoch=0, shuffle=True).tolist() == [3, 5, 2, 7, 0, 6, 1, 4]
    assert order(8, seed=1, epoch=1, shuffle=True).tolist() == [0, 6, 5, 3, 4, 7, 2, 1]


def test_order_depends_on_seed_and_epoch() -> None:
    orders = {tuple(order(50, seed, epoch, shuffle=True)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_without_shuffle_the_order_is_that_of_the_rows() -> None:
    assert order(5, seed=3, epoch=7, shuffle=False).tolist() == [0, 1, 2, 3, 4]
    assert take(3, 2, 3, seed=0, shuffle=False) == [(0, 2), (1, 0), (1, 1)]


@given(sizes, st.integers(0, 300), st.integers(0, 150), st.integers(0, 150), seeds, st.booleans())
def test_a_position_is_all_the_state_there_is(n: int, start: int, a: int, b: int, seed: int, shuffle: bool) -> None:
    together = take(n, start, a + b, seed, shuffle)
    assert together == take(n, start, a, seed, shuffle) + take(n, start + a, b, seed, shuffle)


@given(sizes, st.integers(1, 4), seeds)
def test_epochs_follow_each_other_and_nothing_is_dropped(n: int, epochs: int, seed: int) -> None:
    taken = take(n, 0, n * epochs, seed, shuffle=True)
    for epoch in range(epochs):
        assert sorted(unit for at, unit in taken if at == epoch) == list(range(n))
    assert [at for at, _ in taken] == sorted(at for at, _ in taken)


def test_shuffling_is_near_uniform() -> None:
    first = np.array([order(10, seed, 0, shuffle=True)[0] for seed in range(5000)])
    counts = np.bincount(first, minlength=10)
    assert counts.min() > 400
    assert counts.max() < 600


@pytest.mark.parametrize(("num_units", "start", "count"), [(0, 0, 1), (5, -1, 1), (5, 0, -1)])
def test_wrong_arguments_are_named(num_units: int, start: int, count: int) -> None:
    with pytest.raises(ValueError, match="no units|negative"):
        take(num_units, start, count, seed=0, shuffle=True)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 120), seeds)
def test_a_sample_has_of_each_source_its_share(sources: list[int], count: int, seed: int) -> None:
    drawn, total, start = proportional_sample(sources, count, seed), sum(sources), 0
    assert drawn == sorted(set(drawn))
    assert len(drawn) == min(count, total)
    for size in sources:
        own = sum(start <= unit < start + size for unit in drawn)
        assert abs(own - (min(count, total) * size / total if total else 0)) < 1
        start += size


def test_a_sample_is_the_seeds() -> None:
    drawn = [tuple(proportional_sample([500, 500], 20, seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != tuple(range(20))
    assert proportional_sample([3, 2], 5, 1) == [0, 1, 2, 3, 4]
