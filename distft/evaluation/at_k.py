"""What several answers to one prompt are worth: pass@k, mean@k and majority@k. Pure; numpy only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb

import numpy as np
import numpy.typing as npt

from distft.evaluation.measures import Measure, mean


def pass_at_k(num_answers: int, num_right: int, k: int) -> float:
    """The probability that one of ``k`` answers is right, without bias from ``num_right`` right ones of
    ``num_answers``: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021). ValueError for more than there are."""
    if not 0 < k <= num_answers:
        raise ValueError(f"k is {k} of {num_answers} answers")
    return 1.0 - comb(num_answers - num_right, k) / comb(num_answers, k)


def majority_at_k(right: Sequence[bool], votes: Sequence[Hashable], k: int) -> float:
    """How often the answer that most of ``k`` give is right (Wang et al. 2023), the mean over as many groups of ``k``
    as there are, in order. Of answers given equally often the one that was given first counts."""
    groups = [range(start, start + k) for start in range(0, len(votes) - k + 1, k)]
    found = []
    for group in groups:
        most = Counter(votes[place] for place in group).most_common(1)[0][0]
        found.append(right[next(place for place in group if votes[place] == most)])
    return float(np.mean(found))


def sizes_of(num_answers: int) -> list[int]:
    """1, 2, 4, ... and all of them."""
    powers = [2**power for power in range(num_answers.bit_length()) if 2**power < num_answers]
    return [*powers, num_answers]


def of_attempts(right: npt.NDArray[np.bool_], votes: Sequence[Sequence[Hashable]]) -> dict[str, Measure]:
    """Of answers ``right [num_rows, n]``, each with what it votes for: ``pass@k`` for k = 1, 2, 4, ... n, ``mean@n``,
    the share that is right, and ``majority@k`` for k above 2 (of two answers there is no majority)."""
    num_answers = right.shape[1]
    found: dict[str, Measure] = {}
    for k in sizes_of(num_answers):
        found[f"pass@{k}"] = mean([pass_at_k(num_answers, int(row.sum()), k) for row in right])
    found[f"mean@{num_answers}"] = mean(right.mean(axis=1))
    for k in sizes_of(num_answers):
        if k > 2:
            rows = [majority_at_k(row.tolist(), said, k) for row, said in zip(right, votes, strict=True)]
            found[f"majority@{k}"] = mean(rows)
    return found
