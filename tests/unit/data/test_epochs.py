"""The places of an epoch, and what fills them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.data.epochs import Epochs
from distft.data.sampler import take

NEW_AND_OLD = Epochs((90, 1000), (None, 0.1))


@pytest.mark.parametrize(
    ("sizes", "shares", "places"),
    [
        ((5, 7), (None, None), (5, 7)),
        ((90, 1000), (None, 0.1), (90, 10)),  # 10 of 100
        ((90, 3), (None, 0.1), (90, 10)),  # whatever its size
        ((60, 1000, 1000), (None, 0.1, 0.3), (60, 10, 30)),
        ((50, 7, 50), (None, 0.5, None), (50, 100, 50)),
        ((3, 1000), (None, 0.001), (3, 1)),  # one at least
        ((9, 0), (None, 0.5), (9, 0)),  # of no rows none
    ],
)
def test_places(sizes: tuple[int, ...], shares: tuple[float | None, ...], places: tuple[int, ...]) -> None:
    epochs = Epochs(sizes, shares)
    assert epochs.places == places
    assert epochs.num_units == sum(places)


@pytest.mark.parametrize("shuffle", [True, False])
def test_without_shares_it_is_the_samplers_order(shuffle: bool) -> None:
    found = Epochs((5, 7), (None, None)).units(3, 40, 11, shuffle)
    assert found == [unit for _, unit in take(12, 3, 40, 11, shuffle)]


def test_all_old_rows_are_seen_before_any_comes_twice() -> None:
    """A hundred epochs of ten: each of a thousand once, and the new ones once an epoch."""
    visits = Counter(NEW_AND_OLD.units(0, 100 * 100, seed=3, shuffle=True))
    assert [visits[unit] for unit in range(90)] == [100] * 90
    assert [visits[unit] for unit in range(90, 1090)] == [1] * 1000


def test_an_epoch_has_its_share_and_no_two_epochs_the_same() -> None:
    epochs = [NEW_AND_OLD.units(100 * epoch, 100, seed=3, shuffle=True) for epoch in range(3)]
    old = [{unit for unit in units if unit >= 90} for units in epochs]
    assert [len(units) for units in old] == [10, 10, 10]
    assert not old[0] & old[1] | old[1] & old[2] | old[0] & old[2]
    other = {unit for unit in NEW_AND_OLD.units(0, 100, seed=4, shuffle=True) if unit >= 90}
    assert other != old[0], "the seed decides"


@given(
    st.lists(st.tuples(st.integers(0, 9), st.none() | st.floats(0.05, 0.3)), min_size=0, max_size=3),
    st.integers(1, 9), st.integers(0, 60), st.integers(0, 25), st.integers(0, 25), st.booleans(),
)  # fmt: skip
def test_a_position_is_all_that_a_resume_needs(
    more: list[tuple[int, float | None]], size: int, start: int, one: int, other: int, shuffle: bool
) -> None:
    epochs = Epochs((size, *(size for size, _ in more)), (None, *(share for _, share in more)))
    whole = epochs.units(start, one + other, 7, shuffle)
    assert whole == epochs.units(start, one, 7, shuffle) + epochs.units(start + one, other, 7, shuffle)
    assert all(0 <= unit < sum(epochs.sizes) for unit in whole)
