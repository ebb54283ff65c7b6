"""What the sequences of a unit are called."""

from __future__ import annotations

from collections.abc import Sequence

from distft.batches import Batch

_IN_A_TUPLE = ("anchor", "positive", "negative")


def sides(batch: Batch) -> list[str]:
    """Of each sequence of a batch: chosen or rejected of a pair, its place and its rank, which others may share, in a
    ranking; anchor, positive or negative of a tuple; "" of what is compared with nothing."""
    if "unit" not in batch:
        return [""] * len(batch)
    ranks = batch.dense("rank").tolist() if "rank" in batch else None
    members: dict[int, list[int]] = {}
    for row, unit in enumerate(batch.dense("unit").tolist()):
        members.setdefault(unit, []).append(row)
    found = [""] * len(batch)
    for rows in members.values():
        named = _in_a_tuple(len(rows)) if ranks is None else _ranked([ranks[row] for row in rows])
        for row, name in zip(rows, named, strict=True):
            found[row] = name
    return found


def _in_a_tuple(size: int) -> list[str]:
    return [_IN_A_TUPLE[min(place, 2)] for place in range(size)] if size > 1 else [""]


def _ranked(ranks: Sequence[int]) -> list[str]:
    if len(ranks) == 2:
        return ["rejected" if rank else "chosen" for rank in ranks]
    return [f"answer {place} of {len(ranks)}, rank {rank + 1}" for place, rank in enumerate(ranks, 1)]
