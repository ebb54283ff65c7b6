"""Ragged samples to the tensors of one micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distft.algorithms.losses.base import LossBatch
from distft.batches import Batch, Ragged

DUMMY_ROWS = 2  # a dummy must look like a pair to the losses that take pairs


@dataclass(frozen=True)
class MicroBatch:
    """``input_ids [rows, length]``; ``select`` and ``targets`` ``[num_tokens]``: see ``models.selected``.

    Token k is predicted at flat position ``select[k]`` and is ``targets[k]``; ``places[k]`` is its index in
    the flat response column of the whole batch. ``last [rows]`` are the flat positions of each row's end: of its last
    token, or of the last one that is not ``unread``.
    """

    input_ids: Tensor
    select: Tensor
    targets: Tensor
    last: Tensor
    places: npt.NDArray[np.int64]
    rows: Sequence[int]
    loss: LossBatch


def collate(
    batch: Batch,
    rows: Sequence[int],
    columns: Sequence[str],
    pad_token: int,
    device: torch.device,
    unread: int | None = None,
) -> MicroBatch:
    """The rows of a batch, right-padded; no rows give dummy work whose weight is zero. ``unread``: see ``MicroBatch``.

    Only response tokens with mask 1 are selected: nobody needs the logits of the others.
    """
    if not rows:
        return _dummy(columns, pad_token, device)
    prompts, responses = batch.ragged("prompt_ids"), batch.ragged("response_ids")
    mask = batch.ragged("response_mask") if "response_mask" in batch else None
    width = max(1, *(len(prompts[row]) + len(responses[row]) for row in rows))
    input_ids = np.full((len(rows), width), pad_token, dtype=np.int64)
    last = np.zeros(len(rows), np.int64)
    found: list[npt.NDArray[np.int64]] = []  # per row: [select, target, segment, place] x tokens
    for index, row in enumerate(rows):
        prompt, response = prompts[row], responses[row]
        length = len(prompt) + len(response)
        input_ids[index, : len(prompt)] = prompt
        input_ids[index, len(prompt) : length] = response
        last[index] = index * width + _end(input_ids[index, :length], unread)
        wanted = np.flatnonzero(mask[row]) if mask is not None else np.arange(len(response))
        before = index * width + len(prompt) - 1 + wanted
        places = responses.offsets[row] + wanted
        found.append(np.stack([before, response[wanted], np.full(len(wanted), index), places]).astype(np.int64))
    tokens = np.concatenate(found, axis=1)
    places, real = tokens[3], tokens.shape[1] > 0
    if not real:  # every token is masked: one that weighs nothing keeps the graph connected
        tokens = np.zeros((4, 1), np.int64)
    return MicroBatch(
        input_ids=_tensor(input_ids, device),
        select=_tensor(tokens[0], device),
        targets=_tensor(tokens[1], device),
        last=_tensor(last, device),
        places=places,
        rows=rows,
        loss=LossBatch(
            response_mask=torch.full((tokens.shape[1],), real, dtype=torch.bool, device=device),
            segments=_tensor(tokens[2], device),
            sequence_mask=torch.ones(len(rows), dtype=torch.bool, device=device),
            columns={name: _column(batch, name, places, rows, device) for name in columns},
        ),
    )


def _end(tokens: npt.NDArray[np.int64], unread: int | None) -> int:
    """The place of the last token, or of the last that is not ``unread``; 0 where there is none."""
    read = np.arange(len(tokens)) if unread is None else np.flatnonzero(tokens != unread)
    return int(read[-1]) if len(read) else 0


def _tensor(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """On its way to the device: from page-locked memory, or the host would wait for all that the device has to do."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _column(
    batch: Batch, name: str, places: npt.NDArray[np.int64], rows: Sequence[int], device: torch.device
) -> Tensor:
    column = batch.columns[name]
    if isinstance(column, Ragged):
        values = column.values[places] if len(places) else np.zeros(1, np.float32)
    else:
        values = column[list(rows)]
    return _tensor(np.asarray(values, dtype=np.float32), device)


def _dummy(columns: Sequence[str], pad_token: int, device: torch.device) -> MicroBatch:
    zeros = torch.zeros(DUMMY_ROWS, dtype=torch.int64, device=device)
    ends = torch.arange(DUMMY_ROWS, dtype=torch.int64, device=device) * 2
    return MicroBatch(
        input_ids=torch.full((DUMMY_ROWS, 2), pad_token, dtype=torch.int64, device=device),
        select=ends,
        targets=zeros,
        last=ends + 1,
        places=np.zeros(0, dtype=np.int64),
        rows=(),
        loss=LossBatch(
            response_mask=torch.zeros(DUMMY_ROWS, dtype=torch.bool, device=device),
            segments=torch.arange(DUMMY_ROWS, device=device),
            sequence_mask=torch.zeros(DUMMY_ROWS, dtype=torch.bool, device=device),
            columns={name: torch.zeros(DUMMY_ROWS, device=device) for name in columns},
        ),
    )
