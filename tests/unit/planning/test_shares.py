"""Ways of sharing GPUs out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.planning.shares import shares


@pytest.mark.parametrize(
    ("sets", "free", "first"),
    [(1, 6, (6,)), (1, 20, (16,)), (2, 8, (4, 4)), (4, 8, (2, 2, 2, 2)), (4, 24, (8, 8, 4, 4)), (3, 8, (4, 2, 2))],
)
def test_even_shares_come_first_and_what_is_left_doubles(sets: int, free: int, first: tuple[int, ...]) -> None:
    assert shares(sets, free, 8)[0] == first


def test_uneven_shares_and_parts_of_the_gpus_follow() -> None:
    found = shares(2, 64, 8)
    assert {(32, 32), (40, 16), (16, 40), (48, 8), (8, 48), (16, 16), (8, 8), (4, 4), (1, 1)} <= set(found)
    assert len(found) == len(set(found))
    assert all(sum(ranks) > 32 for ranks in shares(2, 64, 8, fewer=False))


def test_too_few_gpus_leave_nothing() -> None:
    assert shares(4, 3, 8) == ()
    assert shares(2, 0, 8) == ()
    assert shares(1, -4, 8) == ()


@given(sets=st.integers(1, 4), free=st.integers(1, 8192), per_node=st.sampled_from([1, 4, 8]), fewer=st.booleans())
def test_every_share_can_be_placed(sets: int, free: int, per_node: int, fewer: bool) -> None:
    found = shares(sets, free, per_node, fewer=fewer)
    assert bool(found) is (free >= sets)
    for ranks in found:
        assert len(ranks) == sets
        assert 0 < sum(ranks) <= free
        assert all(own < per_node or own % per_node == 0 for own in ranks)
