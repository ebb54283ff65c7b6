"""How decoders take a prompt and its response: one row, the one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distft.models.families.family import Arranged


def in_one_row(
    prompts: Sequence[npt.NDArray[Any]], responses: Sequence[npt.NDArray[Any]], pad_token: int, unread: int | None
) -> Arranged:
    """``input_ids``: prompt, response, padding. Causal attention never lets a real token see what is behind it, so
    there is no mask. A token is predicted one position before its own."""
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    width = max(1, *lengths)
    input_ids = np.full((len(prompts), width), pad_token, dtype=np.int64)
    first, last = np.zeros(len(prompts), np.int64), np.zeros(len(prompts), np.int64)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        input_ids[row, : len(prompt)] = prompt
        input_ids[row, len(prompt) : lengths[row]] = response
        first[row] = row * width + len(prompt) - 1
        last[row] = row * width + _end(input_ids[row, : lengths[row]], unread)
    return Arranged({"input_ids": input_ids}, first, last)


def _end(tokens: npt.NDArray[np.int64], unread: int | None) -> int:
    """The place of the last token, or of the last that is not ``unread``; 0 where there is none."""
    read = np.arange(len(tokens)) if unread is None else np.flatnonzero(tokens != unread)
    return int(read[-1]) if len(read) else 0
