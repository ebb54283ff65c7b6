"""What goes into each optimizer step of this rank and what comes out of it, in a few numbers: see ``tracking.flight``.

Of what the loss is handed and the tokens that the model is, a digest by sample. While a step lasts only its outputs and
masks are kept where they are, a number or two a token; they are read after it, when the gradient's norm has been read
anyway, and columns are made once more of the host's own. So the host waits for nothing else, and no rank for another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distft.batches import Batch, Ragged
from distft.engine.layer_norms import LayerNorms
from distft.tracking.flight import MOST_SAMPLES, ColumnTrace, RankTrace, StepTrace
from distft.workers.collate import MicroBatch, column_of
from distft.workers.digests import bytes_of_rows, of_rows, told

_HALF, _WIDTH, _MODULO = np.uint64(2**32 - 1), np.uint64(32), 2**64


@dataclass(frozen=True)
class _Seen:
    """A micro-batch that has rows, as the loss has read it."""

    batch: Batch
    rows: list[int]
    places: npt.NDArray[np.int64]
    samples: tuple[int, ...]
    mask: Tensor
    segments: Tensor
    columns: tuple[str, ...]
    outputs: Mapping[str, Tensor]
    reads_tokens: bool


@dataclass
class _Column:
    """A column so far. ``digests``: of each sample; ``sums``, of numbers that are no whole ones: theirs and their
    absolute values'."""

    digests: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    sums: tuple[float, float] | None = None

    def add(self, digests: npt.NDArray[np.uint64], numbers: Tensor | None) -> None:
        self.digests.append(digests)
        if numbers is not None:
            total, size = self.sums or (0.0, 0.0)
            numbers = numbers.double()
            self.sums = total + float(numbers.sum()), size + float(numbers.abs().sum())

    def trace(self) -> ColumnTrace:
        return ColumnTrace(sum(int(of_some.sum()) for of_some in self.digests) % _MODULO, *(self.sums or ()))


@dataclass
class _Step:
    """An optimizer step so far. ``micro_batches``: the samples of each."""

    before: Mapping[str, float] | None
    micro_batches: list[tuple[int, ...]] = field(default_factory=list)
    seen: list[_Seen] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)


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
        step = self._step
        step.losses.append(loss.detach())
        rows, loss_batch = list(micro.rows), micro.loss
        samples = tuple(batch.dense("sample")[rows].tolist()) if rows else ()
        step.micro_batches.append(samples)
        if samples:
            detached = {name: values.detach() for name, values in outputs.items()}
            step.seen.append(
                _Seen(batch, rows, micro.places, samples, loss_batch.response_mask, loss_batch.segments,
                      tuple(loss_batch.columns), detached, reads_tokens)
            )  # fmt: skip

    def end(self, grad_norm: float) -> None:
        """After a step. ``grad_norm``: over all ranks, before clipping."""
        step, self._step = self._step, _Step(None)
        inputs, outputs = dict[str, _Column](), dict[str, _Column]()
        for seen in step.seen:
            _read(seen, inputs, outputs)
        each = sum(map(len, step.micro_batches)) <= MOST_SAMPLES
        self._done.append(
            StepTrace(
                tuple(step.micro_batches) if each else None,
                _of_each(inputs) if each else None,
                {name: column.trace() for name, column in inputs.items()},
                {name: column.trace() for name, column in outputs.items()},
                float(torch.stack(step.losses).double().sum()) if step.losses else 0.0,
                self._norms.take_gradients(grad_norm),
                self._norms.weights(),
                step.before,
            )
        )

    def take(self) -> RankTrace:
        """The steps since this was last asked for."""
        done, self._done = self._done, []
        return RankTrace(self._zero_stage, self._shared_by, self._dtype, tuple(done))


def _read(seen: _Seen, inputs: dict[str, _Column], outputs: dict[str, _Column]) -> None:
    """Adds a micro-batch to the columns."""
    batch, rows, samples = seen.batch, seen.rows, told(seen.samples)
    for name in ("prompt_ids", "response_ids", *(("routed_experts",) if "routed_experts" in batch else ())):
        column = batch.ragged(name)
        _add(inputs, name, (column[row].data for row in rows), samples)
    _add(inputs, "response_mask", _places(seen), samples)
    mask, segments = seen.mask.cpu(), seen.segments.cpu()
    masks = bytes_of_rows(mask, _ends(segments, len(rows)))
    # A token that nobody reads may stand behind the others, to keep the graph connected.
    _add(inputs, "loss_mask", (row.tobytes().rstrip(b"\0") for row in masks), samples)
    everything = bool(mask.all())
    of_tokens = _ends(segments if everything else segments[mask], len(rows))

    def add(columns: dict[str, _Column], name: str, values: Tensor, *, by_token: bool, whole: bool) -> None:
        values = values.cpu()
        if by_token and not everything:
            values = values[mask]
        ends = of_tokens if by_token else range(1, len(rows) + 1)
        _add(columns, name, bytes_of_rows(values, ends), samples, None if whole else values)

    for name in seen.columns:
        kept, values = batch.columns[name], column_of(batch, name, seen.places, rows, torch.device("cpu"))
        whole = (kept.values if isinstance(kept, Ragged) else kept).dtype.kind in "iub"
        add(inputs, name, values, by_token=isinstance(kept, Ragged), whole=whole)
    for name, values in seen.outputs.items():
        add(outputs, name, values, by_token=seen.reads_tokens, whole=False)


def _add(
    columns: dict[str, _Column],
    name: str,
    rows: Iterable[bytes | memoryview],
    samples: Sequence[bytes],
    numbers: Tensor | None = None,
) -> None:
    columns.setdefault(name, _Column()).add(of_rows(name, rows, samples), numbers)


def _ends(segments: Tensor, num_rows: int) -> list[int]:
    """Of each row the place after its last value; ``segments``: the rows of values, in order."""
    found: list[int] = torch.searchsorted(segments, torch.arange(num_rows), right=True).tolist()
    return found


def _places(seen: _Seen) -> list[memoryview]:
    """Of each row which tokens of its response the model is told to read."""
    responses = seen.batch.ragged("response_ids")
    rows_of = np.searchsorted(responses.offsets, seen.places, "right") - 1
    own = np.zeros(len(responses), np.int64)
    own[seen.rows] = np.arange(len(seen.rows))
    ends = _ends(torch.from_numpy(own[rows_of]), len(seen.rows))
    return bytes_of_rows(torch.from_numpy(seen.places - responses.offsets[rows_of]), ends)


def _of_each(inputs: Mapping[str, _Column]) -> tuple[int, ...]:
    """Of each sample its inputs': see ``StepTrace.samples``."""
    if not inputs:
        return ()
    columns = [(np.concatenate(column.digests), column.sums is None) for column in inputs.values()]
    whole = np.array([digests for digests, is_whole in columns if is_whole]).sum(0)
    others = np.array([digests if not is_whole else 0 * digests for digests, is_whole in columns]).sum(0)
    return tuple((whole & _HALF | others << _WIDTH).tolist())
