"""What a loss must know of all sequences of an optimizer step at once, whichever rank and micro-batch has them.

All are read without gradients, what the model says of them is gathered over ranks, and every rank computes the same
from the same: in the order of samples, so that neither ranks nor micro-batches change it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from distft.algorithms.losses.base import RelatingLoss
from distft.batches import Batch
from distft.engine.process_group import gather_rows
from distft.workers.verbs import MicroBatches

Read = Callable[[Sequence[int]], Mapping[str, Tensor]]  # rows of the batch -> the loss's outputs of each


def related(loss: RelatingLoss, batch: Batch, step: MicroBatches, read: Read, device: torch.device) -> Batch:
    """The batch with the columns of ``loss.relate`` (collective). ``step``: this rank's micro-batches, as row numbers.

    ``read`` is called once for each, an empty one too: sharded modules wait for each other.
    """
    rows = [row for micro in step for row in micro]
    with torch.no_grad():
        answered = [{name: values[: len(micro)] for name, values in read(micro).items()} for micro in step]
    order = gather_rows(torch.tensor([_known_by(batch, row) for row in rows], dtype=torch.int64, device=device)
                        .reshape(-1, 3))  # fmt: skip
    by_sample = torch.argsort(order[:, 0])
    outputs = {
        name: gather_rows(torch.cat([one[name].float() for one in answered]))[by_sample] for name in loss.outputs
    }
    samples, units, texts = order[by_sample].T.contiguous()
    columns = loss.relate(outputs, units, texts)
    if not rows:
        return batch
    mine = torch.searchsorted(samples, torch.tensor(batch.dense("sample")[rows], device=device))
    whole = {}
    for name, values in columns.items():
        whole[name] = np.zeros((len(batch), *values.shape[1:]), np.float32)
        whole[name][rows] = values[mine].cpu().numpy()
    return batch.with_columns(**whole)


def _known_by(batch: Batch, row: int) -> tuple[int, int, int]:
    """Number of the sample and of its unit, and one of what it says."""
    said = b"".join(batch.ragged(name)[row].tobytes() for name in ("prompt_ids", "response_ids"))
    number = int.from_bytes(blake2b(said, digest_size=8).digest(), "little", signed=True)
    return int(batch.dense("sample")[row]), int(batch.dense("unit")[row]), number
