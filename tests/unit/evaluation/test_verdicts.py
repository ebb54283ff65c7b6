"""What a judge said is read as it was meant, both orders count, and what is no verdict is no tie."""

from __future__ import annotations

import pytest

from distft.data.formats import Message
from distft.evaluation.bootstrap import estimate
from distft.evaluation.judge import pairwise, preferences
from distft.evaluation.verdicts import (
    SAME,
    Preference,
    comparison,
    preference,
    ranks_of,
    rating_of,
    shares_of,
    verdict_of,
    wins,
)

A, B, TIE = "[[A]]", "[[B]]", "[[tie]]"


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("The first is right.\n[[A]]", "first"),
        ("Not [[A]], for it is wrong: [[ b ]]", "second"),
        ("[[Tie]]", "tie"),
        ("[[A]] or [[C]]", None),
        ("A is better", None),
        ("[[A", None),
        ("", None),
    ],
)
def test_the_last_verdict_counts(said: str, verdict: str | None) -> None:
    assert verdict_of(said) == verdict


@pytest.mark.parametrize(
    ("said", "rating"),
    [
        ("[[3]]", 3),
        ("[[1]] no: [[5]]", 5),
        ("[[0]]", None),
        ("[[6]]", None),
        ("[[11]]", None),
        ("4", None),
        ("[[٣]]", 3),
    ],
)
def test_a_rating_is_one_of_the_scale(said: str, rating: int | None) -> None:
    assert rating_of(said) == rating


@pytest.mark.parametrize(
    ("said", "swapped", "found"),
    [
        (A, B, Preference(0.0)),
        (B, A, Preference(1.0)),
        (TIE, TIE, Preference(0.5)),
        (A, TIE, Preference(0.5)),
        (TIE, A, Preference(0.5)),
        (A, A, Preference(0.5, by_order=True)),
        (B, B, Preference(0.5, by_order=True)),
        (A, "no idea", Preference(None)),
        (None, B, Preference(None)),
    ],
)
def test_one_wins_that_is_preferred_in_both_orders(said: str | None, swapped: str | None, found: Preference) -> None:
    assert preference(said, swapped) == found


def test_a_rate_of_what_has_a_verdict() -> None:
    said = [Preference(one) for one in (1.0, 1.0, 0.5, 0.0, None, 1.0)]
    found = wins([*said, Preference(0.5, by_order=True)])
    assert (found.num_wins, found.num_ties, found.num_losses, found.num_by_order, found.num_unread) == (3, 2, 1, 1, 1)
    assert found.num_judged == 6
    assert found.rate.total == pytest.approx(4 / 6)  # (3 + 2 / 2) of 6: the unread one is in neither
    interval = estimate(found.rate)
    assert interval.low < 4 / 6 < interval.high
    by_prompt = wins([Preference(1.0), Preference(None), Preference(0.0), Preference(0.5)], repeats=2)
    assert by_prompt.rate.rows.tolist() == [[1.0, 1.0], [0.5, 2.0]]


def test_ranks_by_wins_and_half_the_ties() -> None:
    # pairs (0,1) (0,2) (1,2): 0 beats 1, 0 and 2 tie, 2 beats 1: points 1.5, 0, 1.5
    assert ranks_of([Preference(0.0), SAME, Preference(1.0)], 3) == (1, 2, 1)
    # a circle: each has one win
    assert ranks_of([Preference(0.0), Preference(1.0), Preference(0.0)], 3) == (1, 1, 1)
    assert ranks_of([Preference(0.0), Preference(None), Preference(0.0)], 3) is None
    assert ranks_of([], 1) == (1,)


class Longer:
    """A judge who takes the longer answer for the better one, and remembers what it read."""

    name = "longer"

    def __init__(self) -> None:
        self.read: list[str] = []

    def answers(self, questions: list[str]) -> list[str | None]:
        self.read += questions
        shown = [question.split("=== ") for question in questions]
        return [A if len(parts[2]) > len(parts[3]) else B for parts in shown]


def test_both_orders_are_asked_and_equal_answers_are_not() -> None:
    judge = Longer()
    prompt = (Message("user", "Why?"), Message("assistant", "So."), Message("user", "And?"))
    found = preferences(judge, "Which is longer?", ["Why?", prompt, "Who?"], ["a", "aa", " me"], ["bbb", "b", "me "])
    assert found == [Preference(1.0), Preference(0.0), SAME]
    assert judge.read == [
        comparison("Which is longer?", *shown)
        for shown in (("Why?", "a", "bbb"), ("Why?", "bbb", "a"), (prompt, "aa", "b"), (prompt, "b", "aa"))
    ]
    assert "Which is longer?" in judge.read[0]
    assert "user: Why?\n\nassistant: So.\n\nuser: And?" in judge.read[2]
    said = pairwise(judge, "Which is longer?", "Why?", ["aa", "a", "aaa"])
    assert ranks_of(said, 3) == (2, 3, 1)


def test_shares_are_of_the_comparisons_that_are_read() -> None:
    """a beats b, ties with c; b against c is unread: (1 + 0.5) / 2, 0 / 1, 0.5 / 1."""
    assert shares_of([Preference(0.0), SAME, Preference(None)], 3) == (0.75, 0.0, 0.5)
    assert shares_of([Preference(None)], 2) == (0.5, 0.5)
