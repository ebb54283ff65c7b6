"""Which rows are trained on and which are held out, and how sources are mixed: pure, by content, never by order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

ListName: TypeAlias = Literal["train", "eval", "test"]
LIST_NAMES: Final[tuple[ListName, ...]] = ("train", "eval", "test")

_SCALE = 2**32


def held_out(key: str, holdout: float, lists: Sequence[ListName]) -> ListName:
    """The list a row belongs to: each of ``lists`` (eval, test) gets ``holdout`` of all keys, the rest is train.

    ``key`` is a hexadecimal fingerprint of what is asked, so the same question is always on the same side,
    whatever else is in the data and in whatever order. eval and test have shares of their own: dropping one
    list leaves the other as it is.
    """
    share = round(holdout * _SCALE)
    number = int(key[:8], 16)
    for place, name in enumerate(("eval", "test")):
        if name in lists and place * share <= number < (place + 1) * share:
            return name  # type: ignore[return-value]
    return "train"


@dataclass(frozen=True)
class Leaks:
    """Places of rows to leave out, by list, because a list that judges has the same question."""

    train: frozenset[int]
    eval: frozenset[int]


def find_leaks(keys: Mapping[ListName, Sequence[str]]) -> Leaks:
    """Rows of train whose question stands in eval or test, and rows of eval whose question stands in test."""
    test = set(keys.get("test", ()))
    judged = test | set(keys.get("eval", ()))
    return Leaks(_places(keys.get("train", ()), judged), _places(keys.get("eval", ()), test))


def mix(keys: Sequence[Sequence[str]], weights: Sequence[float]) -> list[tuple[int, int]]:
    """The units of an epoch as (source, row): a row of a source of weight w is visited w times an epoch.

    1 is every row once, 2 twice, 0.5 one half of them; the fraction goes to the rows with the smallest
    keys, so the choice depends on the rows' content alone. Copies of a row come one after the other source by
    source; the sampler shuffles them. At least one row of every source that has any is kept.
    """
    units: list[tuple[int, int]] = []
    for source, (source_keys, weight) in enumerate(zip(keys, weights, strict=True)):
        num_rows = len(source_keys)
        total = max(round(num_rows * weight), min(1, num_rows))
        whole, extra = divmod(total, num_rows) if num_rows else (0, 0)
        favoured = set(np.argsort(np.array(source_keys, dtype=str), kind="stable")[:extra].tolist())
        units += [(source, row) for row in range(num_rows) for _ in range(whole + (row in favoured))]
    return units


def _places(keys: Iterable[str], judged: set[str]) -> frozenset[int]:
    return frozenset(place for place, key in enumerate(keys) if key in judged)
