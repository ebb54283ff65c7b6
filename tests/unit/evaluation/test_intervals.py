"""Intervals of a change of which only means, deviations and the number of rows are known."""

from __future__ import annotations

import numpy as np
import pytest

from distft.evaluation.intervals import FEWEST, change_of_means, change_of_shares


@pytest.mark.parametrize(
    ("rows", "quantile"), [(5, 2.776445), (8, 2.364624), (31, 2.042272), (100_001, 1.959988)], ids=str
)
def test_means_by_hand(rows: int, quantile: float) -> None:
    """Quantiles of Student's t from a printed table; the error is sqrt((3^2 + 4^2) / (rows - 1))."""
    found = change_of_means(1.0, (3.0, 4.0), rows)
    half = quantile * 5.0 / (rows - 1) ** 0.5
    assert found == pytest.approx((1.0 - half, 1.0 + half), rel=2e-3)


def test_shares_as_in_the_paper() -> None:
    """Newcombe 1998, table II, method 10, of 9/10 - 3/10 and 10/10 - 0/10."""
    assert change_of_shares(0.3, 0.9, 10) == pytest.approx((0.1705, 0.8090), abs=5e-5)
    assert change_of_shares(0.0, 1.0, 10) == pytest.approx((0.6075, 1.0), abs=5e-5)


def test_of_models_that_do_not_differ_it_holds_nothing_19_times_in_20() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(size=(2, 4000, 8))
    held = [
        (low, high)
        for one, two in zip(first, second, strict=True)
        for low, high in [change_of_means(two.mean() - one.mean(), (one.std(), two.std()), 8) or (1.0, -1.0)]
        if low <= 0 <= high
    ]
    assert 0.95 <= len(held) / 4000 <= 0.98


def test_too_few_rows_or_no_deviation_say_nothing() -> None:
    assert change_of_means(1.0, (1.0, 1.0), FEWEST - 1) is None
    assert change_of_means(1.0, (0.0, 0.0), 100) is None
    assert change_of_means(1.0, (float("nan"), float("nan")), 100) is None
    assert change_of_shares(0.0, 1.0, FEWEST - 1) is None
