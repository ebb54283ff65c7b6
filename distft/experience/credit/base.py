"""What assigning credit takes and gives. The whole rollout batch is there at once, so every mean and deviation is
global by construction, and the samples of a prompt (equal numbers in column ``group``) are all there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from distft.batches import Array, Batch, Column, Ragged


@dataclass(frozen=True)
class Chosen:
    """What of a rollout is trained on: its ``rows`` in that order, int64 ``[n]``, and the number of each one's unit in
    ``units [n]``. There may be none; then the iteration trains nothing."""

    rows: Array
    units: Array


@dataclass(frozen=True)
class Assigned:
    """``columns`` that the losses read, over the same samples, or over the ``chosen`` ones where only those are trained
    on; ``metrics`` of the iteration; ``state`` for the next one: plain values, in the checkpoint with the rest, that
    nobody else looks into."""

    columns: dict[str, Column]
    metrics: dict[str, float] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    chosen: Chosen | None = None


class Credit(Protocol):
    """A function of a rollout, the algorithm's section, and what the iteration before left."""

    def __call__(self, rollout: Batch, section: Any, state: Mapping[str, Any]) -> Assigned:
        """``rollout`` has ``response_ids, old_logprobs, sampled_logprobs, entropy, score, ended, group``, of the roles
        that there are ``ref_logprobs`` and ``values``, and ``response_mask`` where some tokens are not the policy's.
        ``state`` is ``{}`` in the first iteration."""


@dataclass(frozen=True)
class Padded:
    """A rollout batch as rectangles: ``mask [B, T]`` bool; ``lengths [B]`` response tokens."""

    lengths: Array
    mask: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Padded:
        """The shape of the responses, observation tokens masked out."""
        lengths = batch.ragged("response_ids").lengths
        width = int(lengths.max(initial=1))
        mask = torch.from_numpy(np.arange(width)[None, :] < lengths[:, None])
        return cls(lengths, cls(lengths, mask).rectangle(batch.response_mask()).bool())

    def rectangle(self, column: Ragged) -> Tensor:
        """A ragged column, float32 ``[B, T]``, 0 behind its rows."""
        result = np.zeros((len(self.lengths), self.mask.shape[1]), np.float32)
        result[np.arange(result.shape[1])[None, :] < self.lengths[:, None]] = column.values
        return torch.from_numpy(result)

    def ragged(self, values: Tensor) -> Ragged:
        """Back from ``[B, T]``."""
        inside = np.arange(values.shape[1])[None, :] < self.lengths[:, None]
        return Ragged.split(values.numpy()[inside].astype(np.float32), self.lengths)


def scores_of(rollout: Batch) -> Tensor:
    """Column ``score``, float32 ``[B]``."""
    return torch.from_numpy(np.array(rollout.dense("score"), dtype=np.float32))


def spread(per_response: Tensor, shape: Padded) -> Ragged:
    """A number of each response ``[B]`` at every token of its own, 0 at observations."""
    return shape.ragged(torch.where(shape.mask, per_response[:, None].float(), 0.0))


def importance(rollout: Batch, shape: Padded) -> Tensor:
    """Trainer's probability / generator's of each token, ``[B, T]``."""
    trainer, generator = (shape.rectangle(rollout.ragged(f"{name}_logprobs")) for name in ("old", "sampled"))
    return (trainer - generator).exp()


def importance_columns(rollout: Batch, shape: Padded, cap: float | None) -> dict[str, Column]:
    """With a cap the column ``importance_weights``: min(trainer's probability / generator's, cap) of each token."""
    return {} if cap is None else {"importance_weights": shape.ragged(importance(rollout, shape).clamp(max=cap))}
