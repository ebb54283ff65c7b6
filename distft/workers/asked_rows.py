"""Rows of data whose prompts the policy is asked to answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distft.batches import Batch, Ragged
from distft.data.encode import Encoder
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
