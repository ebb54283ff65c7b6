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
from distft.models.families.family import Family, ModelInputs

DUMMY_ROWS = 2  # a dummy must look like a pair to the losses that take pairs


@dataclass(frozen=True)
class MicroBatch(ModelInputs):
    """What a model is given, and what a loss is. ``places[k]``: the index of token k in the flat response column of the
    whole batch; ``first [rows]``: see ``Arranged``.
    """

    places: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    rows: Sequence[int]
    loss: LossBatch


def collate(
    family: Family,
    batch: Batch,
    rows: Sequence[int],
    columns: Sequence[str],
    pad_token: int,
    device: torch.device,
    unread: int | None = None,
) -> MicroBatch:
    """The rows of a batch as the family takes them; no rows give dummy work whose weight is zero. ``unread``: see
    ``Family.arrange``.

    Only response tokens with mask 1 are selected: nobody needs the logits of the others.
    """
    if not rows:
        return _dummy(family, columns, pad_token, device)
    prompts, responses = batch.ragged("prompt_ids"), batch.ragged("response_ids")
    mask = batch.ragged("response_mask") if "response_mask" in batch else None
    arranged = family.arrange([prompts[row] for row in rows], [responses[row] for row in rows], pad_token, unread)
    found: list[npt.NDArray[np.int64]] = []  # per row: [select, target, segment, place] x tokens
    for index, row in enumerate(rows):
        response = responses[row]
        wanted = np.flatnonzero(mask[row]) if mask is not None else np.arange(len(response))
        select, places = arranged.first[index] + wanted, responses.offsets[row] + wanted
        found.append(np.stack([select, response[wanted], np.full(len(wanted), index), places]).astype(np.int64))
    tokens = np.concatenate(found, axis=1)
    places, real = tokens[3], tokens.shape[1] > 0
    if not real:  # every token is masked: one that weighs nothing keeps the graph connected
        tokens = np.zeros((4, 1), np.int64)
    return MicroBatch(
        tensors={name: _tensor(array, device) for name, array in arranged.arrays.items()},
        select=_tensor(tokens[0], device),
        targets=_tensor(tokens[1], device),
        last=_tensor(arranged.last, device),
        places=places,
        first=arranged.first,
        rows=rows,
        loss=LossBatch(
            response_mask=torch.full((tokens.shape[1],), real, dtype=torch.bool, device=device),
            segments=_tensor(tokens[2], device),
            sequence_mask=torch.ones(len(rows), dtype=torch.bool, device=device),
            columns={name: column_of(batch, name, places, rows, device) for name in columns},
        ),
    )


def _tensor(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """On its way to the device: from page-locked memory, or the host would wait for all that the device has to do."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def column_of(
    batch: Batch, name: str, places: npt.NDArray[np.int64], rows: Sequence[int], device: torch.device
) -> Tensor:
    """As a loss is given it: of each token at one of the ``places``, or of each row."""
    column = batch.columns[name]
    if isinstance(column, Ragged):
        values = column.values[places] if len(places) else np.zeros((1, *column.values.shape[1:]), column.values.dtype)
    else:
        values = column[list(rows)]
    numbers = isinstance(column, Ragged) and values.dtype.kind == "i"
    return _tensor(np.asarray(values, dtype=np.int64 if numbers else np.float32), device)


def _dummy(family: Family, columns: Sequence[str], pad_token: int, device: torch.device) -> MicroBatch:
    padding = [np.full(1, pad_token)] * DUMMY_ROWS
    arranged = family.arrange(padding, padding, pad_token, None)
    return MicroBatch(
        tensors={name: _tensor(array, device) for name, array in arranged.arrays.items()},
        select=_tensor(arranged.first, device),
        targets=torch.zeros(DUMMY_ROWS, dtype=torch.int64, device=device),
        last=_tensor(arranged.last, device),
        places=np.zeros(0, dtype=np.int64),
        first=arranged.first,
        rows=(),
        loss=LossBatch(
            response_mask=torch.zeros(DUMMY_ROWS, dtype=torch.bool, device=device),
            segments=torch.arange(DUMMY_ROWS, device=device),
            sequence_mask=torch.zeros(DUMMY_ROWS, dtype=torch.bool, device=device),
            columns={name: torch.zeros(DUMMY_ROWS, device=device) for name in columns},
        ),
    )
