"""A rollout as the reward model saw texts when it was trained: ended as its template, or a plain row, ends."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from distft.batches import Array, Batch, Ragged
from distft.data.bad_rows import BadRow
from distft.data.encode import Encoded, Encoder
from distft.data.encode_pairs import PairEncoder
from distft.data.formats import Content
from distft.data.turn_end import TurnEnd

log = logging.getLogger(__name__)

Ids: TypeAlias = Sequence[int] | Array


@dataclass(frozen=True)
class Reader:
    """How a reward model reads: its tokenizer, whether that is proven to be the policy's (``same``), and the most
    positions that it has learned, where there is a limit."""

    tokenizer: Any
    same: bool
    positions: int | None


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
    return _columns(batch, [batch.ragged("prompt_ids")[row] for row in range(len(batch))], responses)


def read_anew(
    batch: Batch, prompts: Sequence[Content], completions: Sequence[str], encoder: Encoder, where: str,
    limit: int | None = None,
) -> Batch:  # fmt: skip
    """The same columns in the reward model's own tokens, from the text: through its template, as at its training.

    A response that was cut at the limit has no end in these tokens either. One that the template refuses, which a
    policy may write at any time, follows the prompt as it is. An encoder reads at most ``limit`` tokens of it, as at
    its training; of others see ``within_positions``.
    """
    encoded: list[Encoded] = []
    for prompt, completion, ended in zip(prompts, completions, batch.dense("ended"), strict=True):
        try:
            read_as = encoder.answer if ended else encoder.cut_answer
            encoded.append(read_as(prompt, completion, where))
        except BadRow:
            encoded.append(encoder.cut_answer(prompt, completion, where))
    if limit is not None and isinstance(encoder, PairEncoder):
        encoded = [encoder.within(one, limit) for one in encoded]
    return _columns(batch, [one.prompt_ids for one in encoded], [one.response_ids for one in encoded])


def within_positions(batch: Batch, limit: int | None, *, apart: bool = False) -> Batch:
    """Samples of at most ``limit`` tokens: of longer ones the beginning is left out, for a score is read at the end.

    How long a text is in another tokenizer's tokens is not known before it is there, and a table of positions ends.
    ``apart``: of an encoder-decoder, each side of which has ``limit`` positions, one of them the decoder's start
    token's.
    """
    prompts, responses = (batch.ragged(name) for name in ("prompt_ids", "response_ids"))
    if limit is None:
        return batch
    over = np.maximum(prompts.lengths + responses.lengths - limit, 0)
    before, within = over, np.maximum(over - prompts.lengths, 0)
    if apart:
        before, within = np.maximum(prompts.lengths - limit, 0), np.maximum(responses.lengths - limit + 1, 0)
    if not (before.any() or within.any()):
        return batch
    log.warning("%d of %d samples exceed the reward model's %d positions: their beginnings are left out",
                ((before > 0) | (within > 0)).sum(), len(batch), limit)  # fmt: skip
    return _columns(
        batch,
        [prompts[row][more:] for row, more in enumerate(before)],
        [responses[row][more:] for row, more in enumerate(within)],
    )


def _columns(batch: Batch, prompts: Sequence[Ids], responses: Sequence[Ids]) -> Batch:
    return Batch(
        {
            "sample": batch.dense("sample"),
            "unit": batch.dense("unit"),
            "prompt_ids": Ragged.of(prompts, np.int32),
            "response_ids": Ragged.of(responses, np.int32),
        }
    )


def _ended(response: list[int], end: TurnEnd, special: Collection[int]) -> list[int]:
    last = response[-1]
    behind = end.behind(last)
    if behind is not None:
        return [*response, *behind]
    return [*(response[:-1] if last in special else response), *end.ids]
