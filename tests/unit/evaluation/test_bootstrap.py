"""Intervals and tests against small cases that can be worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from distft.evaluation.bootstrap import compare, estimate
from distft.evaluation.measures import mean, per, perplexity


def test_the_interval_of_three_rows_worked_by_hand() -> None:
    """Of the 27 draws of three from 0, 1, 2 the sums 0 to 6 come 1, 3, 6, 7, 6, 3, 1 times. At or below sum 0 lie
    1/27 = 3.7 %, at or below 1 already 14.8 %: a tail of 5 % ends at sum 1, one of 2.5 % at sum 0."""
    measure = mean([0.0, 1.0, 2.0])
    wide, narrow = estimate(measure, resamples=20_000), estimate(measure, resamples=20_000, level=0.9)
    assert (wide.value, wide.low, wide.high) == (1.0, 0.0, 2.0)
    assert (narrow.value, narrow.low, narrow.high) == pytest.approx((1.0, 1 / 3, 5 / 3))


def test_a_loss_per_token_weighs_rows_by_their_tokens() -> None:
    """Rows of loss 1 and 4 with 1 and 3 tokens: 13 / 4; one of them drawn twice gives 1 or 4, each in a quarter."""
    nlls, tokens = np.array([1.0, 12.0]), np.array([1, 3])
    found = estimate(per(nlls, tokens))
    assert (found.value, found.low, found.high) == (13 / 4, 1.0, 4.0)
    assert perplexity(nlls, tokens).total == pytest.approx(np.exp(13 / 4))
    half = estimate(per(nlls, tokens), level=0.45)  # tails of 27.5 %: the draw of one each lies between
    assert (half.low, half.high) == (13 / 4, 13 / 4)


def test_the_paired_test_of_four_rows_worked_by_hand() -> None:
    """All four rows better by 1: of the 16 ways to swap, two (none, all) give a difference as large."""
    first, second = mean([0.0, 1.0, 2.0, 3.0]), mean([1.0, 2.0, 3.0, 4.0])
    found = compare(first, second, resamples=20_000)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.p == pytest.approx(2 / 16, abs=0.01)
    other_way = compare(second, first, resamples=20_000)
    assert (other_way.value, other_way.p) == (-1.0, found.p)
    assert compare(first, first).p == 1.0


def test_the_pairing_is_what_finds_a_small_difference() -> None:
    random = np.random.default_rng(0)
    easy = random.normal(size=200) * 10
    better = easy + 0.5 + random.normal(size=200)
    found = compare(mean(easy), mean(better))
    assert found.p < 0.01
    assert 0 < found.low < found.value < found.high
    assert compare(mean(easy), mean(random.permutation(better))).p > 0.2
    with pytest.raises(ValueError, match="not of the same questions"):
        compare(mean(easy), mean(better[:-1]))


def test_the_interval_covers_what_it_should() -> None:
    """Of 100 samples of 60 rows from a known distribution, about 95 intervals hold its mean."""
    random = np.random.default_rng(1)
    found = [estimate(mean(random.exponential(size=60)), resamples=400) for _ in range(100)]
    assert 85 <= sum(one.low <= 1.0 <= one.high for one in found) <= 99
    assert estimate(mean([1.0, 5.0]), seed=3) == estimate(mean([1.0, 5.0]), seed=3)


def test_answers_to_one_prompt_are_drawn_together() -> None:
    measure = mean([0.0, 0.0, 4.0, 4.0])
    assert measure.grouped(2).total == measure.total == 2.0
    assert len(measure.grouped(2).rows) == 2
    assert measure.of([2, 3]).total == 4.0
