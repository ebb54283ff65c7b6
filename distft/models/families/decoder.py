"""How decoders take a prompt and its response: the one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distft.models.families.family import Arranged


@dataclass(frozen=True)
class Decoder:
    """The part of ``Family`` that decoders have in common. ``packed``: all rows of a micro-batch are laid in one."""

    packed: bool = False

    def arrange(
        self, prompts: Sequence[npt.NDArray[Any]], responses: Sequence[npt.NDArray[Any]], pad_token: int,
        unread: int | None,
    ) -> Arranged:  # fmt: skip
        """See ``Family``."""
        return (behind_each_other if self.packed else in_rows)(prompts, responses, pad_token, unread)

    def positions(self, prompt: int, response: int) -> int:
        """See ``Family``: one behind the other."""
        return prompt + response


def in_rows(
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


def behind_each_other(
    prompts: Sequence[npt.NDArray[Any]], responses: Sequence[npt.NDArray[Any]], pad_token: int, unread: int | None
) -> Arranged:
    """``input_ids``, ``position_ids`` ``[1, tokens]``: prompt, response, prompt, response, ... Positions begin anew
    with every sample: by that transformers tells which tokens see each other. A sample without a token has a padding
    token, so that something is read of it."""
    empty = np.full(1, pad_token, np.int64)
    samples = [
        np.concatenate([prompt, response]).astype(np.int64) if len(prompt) + len(response) else empty
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    lengths = np.array([len(sample) for sample in samples], np.int64)
    starts = np.cumsum(lengths) - lengths
    arrays = {
        "input_ids": np.concatenate(samples)[None],
        "position_ids": np.concatenate([np.arange(length) for length in lengths])[None],
    }
    first = starts + np.array([len(prompt) for prompt in prompts], np.int64) - 1
    return Arranged(arrays, first, starts + np.array([_end(sample, unread) for sample in samples], np.int64))


def _end(tokens: npt.NDArray[np.int64], unread: int | None) -> int:
    """The place of the last token, or of the last that is not ``unread``; 0 where there is none."""
    read = np.arange(len(tokens)) if unread is None else np.flatnonzero(tokens != unread)
    return int(read[-1]) if len(read) else 0
