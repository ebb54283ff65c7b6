"""Several answers to a prompt, worked by hand."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from distft.evaluation.at_k import majority_at_k, of_attempts, pass_at_k, sizes_of


def test_pass_at_k_by_hand() -> None:
    """Of five answers two are right: of the 10 pairs 3 have none of them."""
    assert pass_at_k(5, 2, 1) == pytest.approx(2 / 5)
    assert pass_at_k(5, 2, 2) == pytest.approx(7 / 10)
    assert pass_at_k(5, 2, 4) == 1.0
    assert pass_at_k(5, 0, 5) == 0.0
    with pytest.raises(ValueError, match="k is 6 of 5"):
        pass_at_k(5, 2, 6)


def test_pass_at_k_is_the_share_of_all_choices() -> None:
    """Without bias: what is counted over every choice of k answers."""
    for n, c, k in [(6, 1, 3), (7, 4, 2), (4, 2, 2)]:
        right = [place < c for place in range(n)]
        chosen = list(combinations(right, k))
        assert pass_at_k(n, c, k) == pytest.approx(float(Fraction(sum(map(any, chosen)), len(chosen))))


def test_the_majority_by_hand() -> None:
    """Groups of three: a a b is a's, b c c is c's; a tie is whose came first."""
    votes, right = ["a", "a", "b", "b", "c", "c", "a"], [True, True, False, False, False, False, True]
    assert majority_at_k(right, votes, 3) == 0.5
    assert majority_at_k([False, True], ["x", "y"], 2) == 0.0
    assert majority_at_k([True, False], ["x", "y"], 2) == 1.0


def test_what_is_reported_of_four_answers() -> None:
    assert (sizes_of(1), sizes_of(4), sizes_of(6)) == ([1], [1, 2, 4], [1, 2, 4, 6])
    right = np.array([[True, False, False, False], [True, True, True, False]])
    found = of_attempts(right, [["r", "w", "w", "w"], ["r", "r", "r", "w"]])
    assert {name: measure.total for name, measure in found.items()} == {
        "pass@1": pytest.approx((1 / 4 + 3 / 4) / 2),
        "pass@2": pytest.approx((1 / 2 + 1) / 2),
        "pass@4": 1.0,
        "mean@4": 0.5,
        "majority@4": 0.5,
    }
