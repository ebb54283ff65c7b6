"""A rollout as the reward model saw texts when it was trained: ended as its template, or a plain row, ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from distft.batches import Batch, Ragged
from distft.data.turn_end import TurnEnd


def as_trained(batch: Batch, ends: Sequence[TurnEnd | None], special: Collection[int]) -> Batch | None:
    """Columns ``sample, unit, prompt_ids, response_ids`` with what a template writes behind the stop token (a line
    break, an EOS) added to each response that ended by itself; None where all of them are as they should be.

    A reward is read at the end: a score read one token early is another score. A response that ended with a special
    token that is not the template's gets the template's instead, one that was cut gets nothing.
    """
    found = batch.ragged("response_ids")
    ended = batch.dense("ended")
    responses = [
        _ended(found[row].tolist(), end, special) if end is not None and ended[row] else found[row].tolist()
        for row, end in enumerate(ends)
    ]
    if all(len(response) == length for response, length in zip(responses, found.lengths, strict=True)) and all(
        response[-1:] == found[row][-1:].tolist() for row, response in enumerate(responses)
    ):
        return None
    return Batch(
        {
            "sample": batch.dense("sample"),
            "unit": batch.dense("unit"),
            "prompt_ids": batch.ragged("prompt_ids"),
            "response_ids": Ragged.of(responses, np.int32),
        }
    )


def _ended(response: list[int], end: TurnEnd, special: Collection[int]) -> list[int]:
    last = response[-1]
    behind = end.behind(last)
    if behind is not None:
        return [*response, *behind]
    return [*(response[:-1] if last in special else response), *end.ids]
