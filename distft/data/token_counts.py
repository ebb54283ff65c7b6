"""How often tokens occur in a data set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from distft.data.known_tokens import ids_of
from distft.data.tokenized import TokenizedDataset

MOST_COUNTED = 20_000  # units of a list that are looked into
_AT_ONCE = 256


def spread_units(num_units: int) -> list[int]:
    """All units of a list, or ``MOST_COUNTED`` of them, spread evenly."""
    units: list[int] = np.linspace(0, num_units - 1, min(num_units, MOST_COUNTED)).astype(int).tolist()
    return units


def occurrences(dataset: TokenizedDataset, tokens: Mapping[str, int], kind: str) -> dict[str, int]:
    """How often each of the ``tokens``, by their numbers, occurs in the sequences of ``spread_units``, as a ``kind`` of
    algorithm reads them: the prompt of a pair with each of its answers."""
    numbers = np.array(list(tokens.values()), np.int64)
    total = np.zeros(len(numbers), np.int64)
    units = spread_units(dataset.num_units)
    for start in range(0, len(units), _AT_ONCE):
        ids = ids_of(dataset, units[start : start + _AT_ONCE], kind)
        total += np.bincount(ids, minlength=int(numbers.max()) + 1)[numbers]
    return dict(zip(tokens, total.tolist(), strict=True))
