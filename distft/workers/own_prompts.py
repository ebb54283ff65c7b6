"""Prompts of rows of training that the policy is to answer itself, in place of the rows' own answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distft.batches import Batch, Ragged
from distft.data.encode import Encoder
from distft.data.formats import Example
from distft.data.tokenized import TokenizedDataset


def require_prompts(train: TokenizedDataset, encoder: Encoder) -> None:
    """Raises UserError where a source's first row has no prompt: not in the middle of a run."""
    ends = np.cumsum(train.source_sizes)
    for first, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        if end > first:
            encoder.prompt(train.rows([first])[0])


def own_prompts(examples: Sequence[Example], encoder: Encoder, longest: int, new_tokens: int) -> Batch:
    """``prompt_ids, sample, unit``, and ``group``, the number of the row. Passed over are rows whose prompt leaves less
    than ``new_tokens`` of a sequence of ``longest``; there may be none.

    Raises UserError for a row without a prompt.
    """
    asked = [(number, encoder.prompt(example)) for number, example in enumerate(examples)]
    fitting = [(number, ids) for number, ids in asked if encoder.room(ids, longest) >= new_tokens]
    order = np.arange(len(fitting), dtype=np.int64)
    return Batch({
        "prompt_ids": Ragged.of([ids for _, ids in fitting], np.int32), "sample": order, "unit": order,
        "group": np.array([number for number, _ in fitting], np.int64),
    })  # fmt: skip
