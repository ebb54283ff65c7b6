"""What goes into each optimizer step of this rank and what comes out of it, in a few numbers: see ``tracking.flight``.

Digests are of what the loss is handed, a micro-batch at a time, and of the tokens that the model is. They are computed
where the tensors are and read once a step, when the gradient's norm has been read anyway: the host waits for nothing
else, and no rank for another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from distft.batches import Batch, Ragged
from distft.engine.layer_norms import LayerNorms
from distft.tracking.flight import MOST_SAMPLES, ColumnTrace, RankTrace, StepTrace
from distft.workers.collate import MicroBatch
from distft.workers.digests import of_samples, sums_of_rows

_TOKENS = ("prompt_ids", "response_ids", "response_mask")
_WIDTH = np.uint64(32)
_HALF = np.uint64(2**32 - 1)


@dataclass
class _Column:
    """A column so far. ``rows``: see ``digests.sums_of_rows``, of each micro-batch that has rows; ``sums``, of numbers
    that are no whole ones: float64 ``[2]``, theirs and their absolute values'."""

    rows: list[Tensor] = field(default_factory=list)
    sums: Tensor | None = None

    def add(self, rows: Tensor, numbers: Tensor | None = None) -> None:
        self.rows.append(rows)
        if numbers is not None:
            found = torch.stack([numbers.sum(dtype=torch.float64), numbers.abs().sum(dtype=torch.float64)])
            self.sums = found if self.sums is None else self.sums + found


@dataclass
class _Step:
    """An optimizer step so far."""

    before: Mapping[str, float] | None
    samples: list[tuple[int, ...]] = field(default_factory=list)
    inputs: dict[str, _Column] = field(default_factory=lambda: defaultdict(_Column))
    outputs: dict[str, _Column] = field(default_factory=lambda: defaultdict(_Column))
    loss: Tensor | None = None


class FlightRecorder:
    """Of one rank of a trained role. ``shared_by`` ranks compute the same rows."""

    def __init__(self, norms: LayerNorms, *, zero_stage: int, shared_by: int, dtype: str) -> None:
        self._norms, self._zero_stage, self._shared_by, self._dtype = norms, zero_stage, shared_by, dtype
        self._begun = False
        self._step = _Step(None)
        self._done: list[StepTrace] = []

    def begin(self) -> None:
        """Before a step."""
        self._step = _Step(None if self._begun else self._norms.weights())
        self._begun = True

    def saw(
        self, batch: Batch, micro: MicroBatch, outputs: Mapping[str, Tensor], loss: Tensor, *, reads_tokens: bool
    ) -> None:
        """A micro-batch, whose rows of ``batch`` the loss has been taken of. ``reads_tokens``: outputs are of each
        token, else of each row."""
        step, loss = self._step, loss.detach().double()
        step.loss = loss if step.loss is None else step.loss + loss
        step.samples.append(tuple(map(int, batch.dense("sample")[list(micro.rows)])) if micro.rows else ())
        if not micro.rows:
            return
        for name, rows in zip(_TOKENS, _tokens(batch, micro), strict=True):
            step.inputs[name].add(rows)
        read, mask = micro.loss, micro.loss.token_mask
        by_row: list[tuple[_Column, Tensor, bool]] = []
        by_token = [(step.inputs["loss_mask"], read.response_mask, True)]
        for name, values in read.columns.items():
            kept = batch.columns[name]
            whole = (kept.values if isinstance(kept, Ragged) else kept).dtype.kind in "iub"
            (by_token if isinstance(kept, Ragged) else by_row).append((step.inputs[name], values, whole))
        of_tokens = by_token if reads_tokens else by_row
        of_tokens += [(step.outputs[name], values.detach(), False) for name, values in outputs.items()]
        count = len(micro.rows)
        for columns, segments, counts in (
            (by_token, read.segments, mask),
            (by_row, torch.arange(count, device=mask.device), None),
        ):
            sums = sums_of_rows([values for _, values, _ in columns], segments, count, mask=counts)
            for (column, values, whole), rows in zip(columns, sums, strict=True):
                if counts is not None and not whole:
                    values = values.masked_fill(~mask.view(-1, *[1] * (values.dim() - 1)), 0)
                column.add(rows, None if whole else values)

    def end(self, grad_norm: float) -> None:
        """After a step. ``grad_norm``: over all ranks, before clipping."""
        step = self._step
        samples = torch.tensor([sample for micro in step.samples for sample in micro], dtype=torch.int64)
        inputs, outputs, of_each = _read(step.inputs, step.outputs, samples)
        told = len(samples) <= MOST_SAMPLES
        self._done.append(
            StepTrace(
                tuple(step.samples) if told else None,
                of_each if told else None,
                inputs,
                outputs,
                0.0 if step.loss is None else float(step.loss),
                self._norms.take_gradients(grad_norm),
                self._norms.weights(),
                step.before,
            )
        )

    def take(self) -> RankTrace:
        """The steps since this was last asked for."""
        done, self._done = self._done, []
        return RankTrace(self._zero_stage, self._shared_by, self._dtype, tuple(done))


def _tokens(batch: Batch, micro: MicroBatch) -> list[Tensor]:
    """The ``sums_of_rows`` of ``_TOKENS``: of the micro-batch's tokens, and of the mask: which tokens of a response the
    model is told to read."""
    rows, count = list(micro.rows), len(micro.rows)
    both = [batch.ragged(name) for name in _TOKENS[:2]]
    offsets = both[1].offsets
    rows_of = np.searchsorted(offsets, micro.places, "right") - 1
    own = np.zeros(len(batch), np.int64)
    own[rows] = np.arange(count)
    # All at once, as if each were rows of its own.
    lengths = np.concatenate([column.lengths[rows] for column in both])
    places = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = np.concatenate([column[row] for column in both for row in rows])
    values = np.concatenate([tokens, np.ones(len(rows_of), np.int64)])
    segments = np.concatenate([np.repeat(np.arange(2 * count), lengths), own[rows_of] + 2 * count])
    (sums,) = sums_of_rows(
        [torch.from_numpy(values)], torch.from_numpy(segments), 3 * count,
        places=torch.from_numpy(np.concatenate([places, micro.places - offsets[rows_of]])),
    )  # fmt: skip
    return [sums[first : first + count] for first in range(0, 3 * count, count)]


def _read(
    inputs: Mapping[str, _Column], outputs: Mapping[str, _Column], samples: Tensor
) -> tuple[dict[str, ColumnTrace], dict[str, ColumnTrace], tuple[int, ...]]:
    """Both by their names, and see ``StepTrace.samples``; on the host."""
    if not inputs:
        return {}, {}, ()
    columns = [*inputs.values(), *outputs.values()]
    sums = torch.stack([torch.cat(column.rows).cpu() for column in columns])
    digests = of_samples([*inputs, *outputs], sums, samples).numpy().view(np.uint64)
    traces = [
        ColumnTrace(digest, *(() if column.sums is None else column.sums.tolist()))
        for column, digest in zip(columns, digests.sum(1).tolist(), strict=True)
    ]
    of_inputs = digests[: len(inputs)]
    whole = np.array([column.sums is None for column in inputs.values()])
    low, high = of_inputs[whole].sum(0), of_inputs[~whole].sum(0)
    of_each = tuple((low & _HALF | high << _WIDTH).tolist())
    return dict(zip(inputs, traces, strict=False)), dict(zip(outputs, traces[len(inputs) :], strict=True)), of_each
