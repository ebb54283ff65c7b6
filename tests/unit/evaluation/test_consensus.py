"""Two and three labellers whose agreement and consensus are worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from distft.data.formats import Message, Row
from distft.data.labelling import Item, Labels
from distft.data.readers import example_for
from distft.evaluation.consensus import agreement, consensus

ITEM = Item("Which?", ("one", "two", "three"))


def said(
    labeller: str,
    ranks: Sequence[int] | None = None,
    ratings: Sequence[int] | None = None,
    corrections: Sequence[str | None] | None = None,
    number: int = 0,
) -> Labels:
    return Labels(
        labeller, number, ITEM, None if ranks is None else tuple(ranks), None if ratings is None else tuple(ratings),
        None if corrections is None else tuple(corrections), f"{labeller}:1",
    )  # fmt: skip


def pairs(labels: Sequence[Labels]) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in ("chosen", "rejected", "agreement")) for row in consensus(labels).pairs]


def test_agreement_of_two() -> None:
    """Item 0: of three pairs one the other way, tau 1/3. Item 1: the same order, tau 1. Item 2: Ana's alone.

    Alpha: four of each rank, so that squared differences are 16 of 1-2 and of 2-3, 64 of 1-3. Observed: 1 beside 2 four
    times, 4 * 16. Expected: 4 * 4 * 2 * (16 + 16 + 64).
    """
    labels = [said("Ana", (1, 2, 3)), said("Ben", (2, 1, 3)), said("Ana", (3, 2, 1), number=2)]
    labels += [said(name, (1, 2, 3), number=1) for name in ("Ana", "Ben")]
    found = agreement(labels)
    assert (found.labellers, found.num_items, found.num_shared) == ({"Ana": 3, "Ben": 2}, 3, 2)
    assert (found.tau, found.num_compared) == (pytest.approx((1 / 3 + 1) / 2), 2)
    assert found.alpha_ranks == pytest.approx(1 - 11 * 64 / 3072)
    assert found.alpha_ratings is None


def test_one_labeller_agrees_with_nobody() -> None:
    found = agreement([said("Ana", (1, 2, 3))])
    assert (found.tau, found.num_compared, found.alpha_ranks, found.num_shared) == (None, 0, None, 0)
    assert pairs([said("Ana", (1, 2, 3))]) == [("one", "two", 1), ("one", "three", 1), ("two", "three", 1)]


def test_pairs_are_by_majority() -> None:
    labels = [said("Ana", (1, 2, 3)), said("Ben", (2, 1, 3)), said("Cleo", (1, 2, 2))]
    assert pairs(labels) == [("one", "two", 0.6667), ("one", "three", 1), ("two", "three", 0.6667)]
    assert consensus(labels).num_tied_pairs == 0
    found = consensus(labels[:2])
    assert [(row["chosen"], row["rejected"]) for row in found.pairs] == [("one", "three"), ("two", "three")]
    assert found.num_tied_pairs == 1
    assert consensus([said("Ana", (1, 1, 1))]).num_tied_pairs == 3


def test_ratings_are_good_or_bad_answers_and_pairs_where_nobody_ranked() -> None:
    found = consensus([said("Ana", ratings=(5, 3, 1)), said("Ben", ratings=(4, 3, 2))])
    assert [(row["completion"], row["label"], row["rating"]) for row in found.ratings] == [
        ("one", True, 4.5), ("three", False, 1.5)
    ]  # fmt: skip
    assert found.num_middling == 1
    assert [(row["chosen"], row["rejected"]) for row in found.pairs] == [
        ("one", "two"),
        ("one", "three"),
        ("two", "three"),
    ]
    examples = [example_for(Row(row, "r:1"), "unpaired", "kto") for row in found.ratings]
    assert [getattr(one, "label", None) for one in examples] == [True, False]


def test_rankings_are_means_of_mid_ranks() -> None:
    """1 2 3 and 2 1 3: 1.5, 1.5, 3; beside 1 2 2, whose mid-ranks are 1, 2.5, 2.5."""
    labels = [said("Ana", (1, 2, 3)), said("Ben", (2, 1, 3)), said("Cleo", (1, 2, 2))]
    assert [row["ranks"] for row in consensus(labels[:2]).rankings] == [[1.5, 1.5, 3.0]]
    [row] = consensus(labels).rankings
    assert row["ranks"] == pytest.approx([4 / 3, 11 / 6, 17 / 6], abs=1e-4)
    assert consensus([said("Ana", (1, 1, 1))]).rankings == []
    example = example_for(Row(row, "r:1"), "rankings", "reward")
    assert (example.completions, example.ranks) == (("one", "two", "three"), (0, 1, 2))  # type: ignore[union-attr]


def test_every_correction_is_kept() -> None:
    labels = [said("Ana", corrections=("ONE", None, None)), said("Ben", corrections=("One", "two", None))]
    found = [(row["completion"], row["corrected"]) for row in consensus(labels).corrections]
    assert found == [("one", "ONE"), ("one", "One"), ("two", "two"), ("three", "three")]


def test_rows_are_what_training_reads() -> None:
    item = Item((Message("user", "Which?"),), ("one", "two"))
    found = consensus([Labels("Ana", 0, item, (2, 1), None, (None, "TWO"), "a:1")])
    pair = example_for(Row(found.pairs[0], "r:1"), "preference", "reward")
    assert (pair.prompt, pair.chosen) == (item.prompt, (Message("assistant", "two"),))  # type: ignore[union-attr]
    assert {row["corrected"] for row in found.corrections} == {"one", "TWO"}
    corrected = example_for(Row(found.corrections[1], "r:1"), "corrections", "sft")
    assert corrected.chosen == (Message("assistant", "TWO"),)  # type: ignore[union-attr]
