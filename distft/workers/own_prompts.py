"""Prompts of rows of training that the policy is to answer itself, in place of the rows' own answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distft.batches import Batch
from distft.common.errors import UserError
from distft.data.encode import Encoder
from distft.data.formats import Example
from distft.data.tokenized import TokenizedDataset
from distft.workers.asked_rows import asked_rows, prompt_batch


def require_prompts(train: TokenizedDataset, encoder: Encoder) -> None:
    """Raises UserError where a source's first row has no prompt: it is meant for something else. Later
    rows are not looked at: those without a prompt are passed over in the run."""
    ends = np.cumsum(train.source_sizes)
    for first, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        if end > first:
            encoder.prompt(train.rows([first])[0])


def require_room(train: TokenizedDataset, encoder: Encoder, longest: int, new_tokens: int) -> None:
    """Raises UserError where no row's prompt leaves ``new_tokens`` of a sequence of ``longest``: nothing would ever be
    answered."""
    most = 0
    for row in range(train.num_units):
        for _, ids in asked_rows(train.rows([row]), encoder):
            room = encoder.room(ids, longest)
            if room >= new_tokens:
                return
            most = max(most, room)
    what = f"no prompt of data.train leaves room for an answer: {new_tokens} tokens of {longest} (data.max_length)"
    hint = f"rollout.max_new_tokens={most}, or a larger data.max_length" if most > 0 else "a larger data.max_length"
    raise UserError(what, where="algorithm.on_policy", hint=hint)


def own_prompts(examples: Sequence[Example], encoder: Encoder, longest: int, new_tokens: int) -> Batch:
    """``prompt_ids, sample, unit``, and ``group``, the number of the row. Passed over are rows without a prompt, and
    those whose prompt leaves less than ``new_tokens`` of a sequence of ``longest``; there may be none."""
    asked = asked_rows(examples, encoder)
    return prompt_batch([(number, ids) for number, ids in asked if encoder.room(ids, longest) >= new_tokens])
