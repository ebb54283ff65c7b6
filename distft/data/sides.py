"""What the answers of a unit are called."""

from __future__ import annotations

from distft.batches import Batch


def sides(batch: Batch) -> list[str]:
    """Of each sequence of a batch: chosen or rejected of a pair, its place and its rank, which others may share, in a
    ranking; "" of what is compared with nothing."""
    if "rank" not in batch:
        return [""] * len(batch)
    units, ranks = batch.dense("unit").tolist(), batch.dense("rank").tolist()
    members: dict[int, list[int]] = {}
    for row, unit in enumerate(units):
        members.setdefault(unit, []).append(row)
    found = [""] * len(batch)
    for rows in members.values():
        for place, row in enumerate(rows, 1):
            if len(rows) == 2:
                found[row] = "rejected" if ranks[row] else "chosen"
            else:
                found[row] = f"answer {place} of {len(rows)}, rank {ranks[row] + 1}"
    return found
