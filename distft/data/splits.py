"""Which rows are trained on and which are held out, and how sources are mixed: pure, by content, never by order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from distft.common.errors import UserError

Keys: TypeAlias = npt.NDArray[np.uint64]  # [rows, 2]: the higher and the lower half of a fingerprint
ListName: TypeAlias = Literal["train", "eval", "test"]
LIST_NAMES: Final[tuple[ListName, ...]] = ("train", "eval", "test")

WITHOUT: Final = "data.holdout=0 evaluation.every=0 does without held-out rows"
_SCALE = 2**32


def held_out(keys: Keys, holdout: float, lists: Sequence[ListName]) -> npt.NDArray[np.int64]:
    """The list each row belongs to, as its place in LIST_NAMES: each of ``lists`` (eval, test) gets ``holdout`` of all
    keys, the rest is train.

    ``keys``, uint64 [rows, 2], are fingerprints of what is asked, so the same question is always on the same side,
    whatever else is in the data and in whatever order. eval and test have shares of their own: dropping one
    list leaves the other as it is.
    """
    share = round(holdout * _SCALE)
    numbers = (keys[:, 0] >> np.uint64(32)).astype(np.int64)
    side = np.zeros(len(keys), np.int64)
    for place, name in enumerate(("eval", "test")):
        if name in lists:
            side[(place * share <= numbers) & (numbers < (place + 1) * share)] = LIST_NAMES.index(name)
    return side


def none_held_out(name: ListName, holdout: float) -> UserError:
    """Of so few rows that no key falls to the list."""
    hint = f"data.train has too few for data.holdout={holdout}: raise it, or give data.{name}; {WITHOUT}"
    return UserError("no row of data.train is held out for it", where=f"data.{name}", hint=hint)


def mix(keys: Sequence[Keys], weights: Sequence[float]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The units of an epoch, the source and the row of each: a row of a source of weight w is visited w times an epoch.

    1 is every row once, 2 twice, 0.5 one half of them; the fraction goes to the rows with the smallest
    keys, so the choice depends on the rows' content alone. Copies of a row come one after the other source by
    source; the sampler shuffles them. At least one row of every source that has any is kept.
    """
    rows = [np.zeros(0, np.int64)]
    for source_keys, weight in zip(keys, weights, strict=True):
        num_rows = len(source_keys)
        total = max(round(num_rows * weight), min(1, num_rows))
        whole, extra = divmod(total, num_rows) if num_rows else (0, 0)
        visits = np.full(num_rows, whole, np.int64)
        if extra:
            visits[np.lexsort((source_keys[:, 1], source_keys[:, 0]))[:extra]] += 1
        rows.append(np.repeat(np.arange(num_rows, dtype=np.int64), visits))
    sources = [np.full(len(part), number, np.int32) for number, part in enumerate(rows[1:])]
    return np.concatenate([np.zeros(0, np.int32), *sources]), np.concatenate(rows)
