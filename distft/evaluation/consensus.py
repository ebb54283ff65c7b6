"""What several labellers say together: how far they agree, and rows to train on. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from distft.data.labelling import RATINGS, Labels
from distft.evaluation.agreement import kendall_tau, krippendorff_alpha, mid_ranks

RowValues = dict[str, Any]


@dataclass(frozen=True)
class Agreement:
    """Kendall's ``tau``: the mean over all items and pairs of labellers whose orders can be compared, ``num_compared``
    of them. Krippendorff's alphas, ordinal: of the answers' mid-ranks within their item, and of their ratings. None
    where nothing was judged by two."""

    labellers: dict[str, int]  # how many items each judged
    num_items: int
    num_shared: int  # judged by two or more
    tau: float | None
    num_compared: int
    alpha_ranks: float | None
    alpha_ratings: float | None


@dataclass(frozen=True)
class Consensus:
    """Rows to train on, as the formats of ``distft/data/formats.py`` have them, and how many pairs and ratings are not
    among them because as many say one as the other."""

    pairs: list[RowValues]
    rankings: list[RowValues]
    ratings: list[RowValues]
    corrections: list[RowValues]
    num_tied_pairs: int
    num_middling: int


def agreement(labels: Sequence[Labels]) -> Agreement:
    """How far the labellers agree."""
    taus, ranked, rated = [], [], []
    items = list(by_item(labels))
    for judged in items:
        ranks = [one.ranks for one in judged if one.ranks is not None]
        taus += [tau for a, b in combinations(ranks, 2) if (tau := kendall_tau(a, b)) is not None]
        ranked += list(zip(*map(mid_ranks, ranks), strict=True))
        rated += list(zip(*(one.ratings for one in judged if one.ratings is not None), strict=True))
    return Agreement(
        dict(sorted(Counter(one.labeller for one in labels).items())), len(items),
        sum(len(judged) > 1 for judged in items), fmean(taus) if taus else None, len(taus),
        krippendorff_alpha(ranked), krippendorff_alpha(rated),
    )  # fmt: skip


def consensus(labels: Sequence[Labels]) -> Consensus:
    """Pairs: by majority for each pair of answers, of those who ranked them, else rated them; ties have no vote.
    Rankings: the mean of the mid-ranks that each of them gave (Borda's count); none where all are the same.
    Ratings: an answer is good (``label``) where its mean lies above the middle of the scale, bad below. Corrections:
    every one that somebody made; an answer that all left as it was is its own.
    """
    pairs: list[RowValues] = []
    rankings: list[RowValues] = []
    ratings: list[RowValues] = []
    corrections: list[RowValues] = []
    tied = middling = 0
    for judged in by_item(labels):
        found, num_tied = _pairs(judged)
        pairs, tied = pairs + found, tied + num_tied
        rankings += _rankings(judged)
        found, num_middling = _ratings(judged)
        ratings, middling = ratings + found, middling + num_middling
        corrections += _corrections(judged)
    return Consensus(pairs, rankings, ratings, corrections, tied, middling)


def by_item(labels: Sequence[Labels]) -> Iterator[list[Labels]]:
    """The labels of each item, in the order of the items."""
    found: dict[int, list[Labels]] = {}
    for one in labels:
        found.setdefault(one.number, []).append(one)
    for number in sorted(found):
        yield found[number]


def _pairs(judged: Sequence[Labels]) -> tuple[list[RowValues], int]:
    item, orders = judged[0].item, [order for one in judged if (order := _order(one)) is not None]
    found, tied = [], 0
    for a, b in combinations(range(len(item.completions)), 2):
        for_a = sum(order[a] < order[b] for order in orders)
        for_b = sum(order[b] < order[a] for order in orders)
        if for_a == for_b:
            tied += bool(orders)
            continue
        chosen, rejected = (a, b) if for_a > for_b else (b, a)
        found.append({
            "prompt": item.written_prompt, "chosen": item.completions[chosen], "rejected": item.completions[rejected],
            "agreement": round(max(for_a, for_b) / len(orders), 4), "num_labellers": len(orders),
        })  # fmt: skip
    return found, tied


def _rankings(judged: Sequence[Labels]) -> Iterator[RowValues]:
    orders = [mid_ranks(order) for one in judged if (order := _order(one)) is not None]
    means = [round(fmean(ranks), 4) for ranks in zip(*orders, strict=True)]
    if len(set(means)) > 1:
        item = judged[0].item
        yield {
            "prompt": item.written_prompt, "completions": list(item.completions), "ranks": means,
            "num_labellers": len(orders),
        }  # fmt: skip


def _order(one: Labels) -> Sequence[int] | None:
    """Numbers of which lower is better."""
    if one.ranks is not None:
        return one.ranks
    return None if one.ratings is None else [-rating for rating in one.ratings]


def _ratings(judged: Sequence[Labels]) -> tuple[list[RowValues], int]:
    item, said = judged[0].item, [one.ratings for one in judged if one.ratings is not None]
    found, middling = [], 0
    for completion, ratings in zip(item.completions, zip(*said, strict=True), strict=False):
        if (mean := fmean(ratings)) == sum(RATINGS) / 2:
            middling += 1
            continue
        found.append({
            "prompt": item.written_prompt, "completion": completion, "label": mean > sum(RATINGS) / 2,
            "rating": round(mean, 4), "num_labellers": len(said),
        })  # fmt: skip
    return found, middling


def _corrections(judged: Sequence[Labels]) -> Iterator[RowValues]:
    item, said = judged[0].item, [one.corrections for one in judged if one.corrections is not None]
    for completion, texts in zip(item.completions, zip(*said, strict=True), strict=False):
        for corrected in dict.fromkeys(text for text in texts if text is not None and text != completion) or [
            completion
        ]:
            yield {"prompt": item.written_prompt, "completion": completion, "corrected": corrected}
