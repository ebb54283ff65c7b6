"""Agreement worked by hand, and as Krippendorff's own example has it."""

from __future__ import annotations

import math

import pytest

from distft.evaluation.agreement import kendall_tau, krippendorff_alpha, mid_ranks


@pytest.mark.parametrize(
    ("first", "second", "tau"),
    [
        ((1, 2, 3, 4), (1, 2, 3, 4), 1.0),
        ((1, 2, 3, 4), (4, 3, 2, 1), -1.0),
        ((1, 2, 3, 4), (1, 3, 2, 4), 4 / 6),  # five pairs one way, one the other
        (
            (1, 1, 2),
            (1, 2, 3),
            2 / math.sqrt(2 * 3),
        ),  # two concordant; the first tells two pairs apart, the other three
        ((1, 1, 2), (1, 2, 2), 1 / 2),  # one concordant, of two and two
        ((1, 1, 1), (1, 2, 3), None),
        ((1,), (1,), None),
    ],
)
def test_kendall_by_hand(first: tuple[int, ...], second: tuple[int, ...], tau: float | None) -> None:
    assert kendall_tau(first, second) == (None if tau is None else pytest.approx(tau))
    assert kendall_tau(second, first) == (None if tau is None else pytest.approx(tau))


def test_kendall_of_different_things() -> None:
    with pytest.raises(ValueError, match="same things"):
        kendall_tau((1, 2), (1, 2, 3))


def test_alpha_of_krippendorffs_own_example() -> None:
    """Four observers, twelve units, some missing: 0.815 for ordinal data (Krippendorff 2011, section C's data)."""
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[int(said) for said in unit if said.isdigit()] for unit in zip(*observers, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.815, abs=5e-4)


def test_alpha_by_hand() -> None:
    """Units (1, 1), (1, 2), (2, 2): coincidences 1-1: 2, 1-2 and 2-1: 1 each, 2-2: 2; three of each value, so that the
    squared difference of 1 and 2 is (6 - 3)^2 = 9: 1 - (6 - 1) * 2 * 9 / (2 * 3 * 3 * 9)."""
    assert krippendorff_alpha([(1, 1), (1, 2), (2, 2)]) == pytest.approx(1 - 5 * 18 / 162)


def test_alpha_where_there_is_nothing_to_agree_about() -> None:
    assert krippendorff_alpha([(1,), (2,)]) is None
    assert krippendorff_alpha([(3, 3), (3, 3)]) is None
    assert krippendorff_alpha([(1, 1), (4, 4), (2,)]) == 1.0
    units = [(1, 2), (2, 3), (3, 3)]
    assert krippendorff_alpha(units) == pytest.approx(krippendorff_alpha([[10 * a, 10 * b] for a, b in units]))


def test_what_is_tied_shares_its_places() -> None:
    assert mid_ranks((1, 1, 2)) == [1.5, 1.5, 3.0]
    assert mid_ranks((2, 1, 3)) == [2.0, 1.0, 3.0]
