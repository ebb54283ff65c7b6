"""Rows of data whose prompts the policy is asked to answer, and answers that it is asked about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distft.batches import Batch, Ragged
from distft.data.encode import Encoded, Encoder
from distft.data.formats import Example, prompt_of


def asked_rows(examples: Sequence[Example], encoder: Encoder) -> list[tuple[int, list[int]]]:
    """The number of each row that has a prompt, and the prompt's ids; rows without one are passed over."""
    return [(number, encoder.prompt(example)) for number, example in enumerate(examples) if prompt_of(example)]


def prompt_batch(asked: Sequence[tuple[int, list[int]]]) -> Batch:
    """``prompt_ids, sample, unit`` of such rows, and ``group``, the number of the row."""
    order = np.arange(len(asked), dtype=np.int64)
    return Batch({
        "prompt_ids": Ragged.of([ids for _, ids in asked], np.int32), "sample": order, "unit": order,
        "group": np.array([number for number, _ in asked], np.int64),
    })  # fmt: skip


def answer_batch(found: Sequence[Encoded]) -> Batch:
    """``prompt_ids, response_ids, response_mask, sample, unit`` of sequences, each its own unit."""
    numbers = np.arange(len(found), dtype=np.int64)
    return Batch({
        "prompt_ids": Ragged.of([one.prompt_ids for one in found], np.int32),
        "response_ids": Ragged.of([one.response_ids for one in found], np.int32),
        "response_mask": Ragged.of([one.mask for one in found], np.uint8), "sample": numbers, "unit": numbers,
    })  # fmt: skip
