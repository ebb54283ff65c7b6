"""Optimizer steps over one experience: the one update that every algorithm goes through."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from distft.algorithms.losses.base import Loss, LossResult, MeasuringLoss, Metric, RelatingLoss
from distft.batches import Batch
from distft.engine.diverged import Diverged, NonFiniteGradients, NonFiniteLoss
from distft.engine.engine import Engine
from distft.engine.process_group import reduce_scalars
from distft.engine.shaping import Shaping
from distft.models.embedding_noise import EmbeddingNoise
from distft.models.families.family import Family
from distft.workers.by_source import SourceLosses
from distft.workers.collate import collate
from distft.workers.flight_recorder import FlightRecorder
from distft.workers.related import related
from distft.workers.router_replay import RouterReplay
from distft.workers.skipping import Skipping
from distft.workers.verbs import MicroBatches

COUNTS = ("tokens", "sequences", "units", "ptx_tokens")


@dataclass
class StepSums:
    """The metrics of one optimizer step on this rank, until they are reduced over all of them.

    They stay where they were computed, in float64: reading one would hold the host until the device has caught up.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)

    def add(self, result: LossResult) -> None:
        """Takes in one micro-batch, without waiting for it."""
        self._add("loss", result.loss, "sum")
        self.add_metrics(result.metrics)

    def add_metrics(self, metrics: Mapping[str, Metric]) -> None:
        """Takes in more of it."""
        for name, metric in metrics.items():
            self._add(name, metric.value, metric.reduce)

    def _add(self, name: str, value: Tensor, kind: str) -> None:
        value = value.detach().double()
        self.kinds[name] = kind
        if name not in self.sums:
            self.sums[name] = value
        elif kind in ("min", "max"):
            self.sums[name] = (torch.minimum if kind == "min" else torch.maximum)(self.sums[name], value)
        else:
            self.sums[name] = self.sums[name] + value

    def reduced(self, denominators: dict[str, float]) -> dict[str, float]:
        """The step's metrics over all ranks (collective)."""
        read = dict(zip(self.sums, torch.stack(list(self.sums.values())).tolist(), strict=True)) if self.sums else {}
        added = sorted(name for name, kind in self.kinds.items() if kind not in ("min", "max") and name != "loss")
        totals = reduce_scalars([read.get("loss", 0.0), *(read[name] for name in added)])
        metrics = {"loss": totals[0]}
        for name, total in zip(added, totals[1:], strict=True):
            metrics[name] = total / max(1.0, denominators.get(self.kinds[name], 1.0))
        for kind in ("min", "max"):
            names = sorted(name for name, its_kind in self.kinds.items() if its_kind == kind)
            if names:
                metrics |= dict(zip(names, reduce_scalars([read[n] for n in names], kind), strict=True))
        return metrics


@dataclass
class Updater:
    """Runs micro-batches of a loss through an engine; with ``train`` False only measures.

    ``unread`` is the token at which no reward is read, ``num_tokens`` how many the tokenizer has, ``noise`` what
    is added to the embeddings in training, ``shaping`` what works on adapters beside the loss, ``recorder`` what looks
    on, ``replay`` what chooses the experts that the generator chose.
    """

    engine: Engine
    family: Family
    pad_token: int
    unread: int | None = None
    num_tokens: int = 0
    noise: EmbeddingNoise | None = None
    shaping: Shaping | None = None
    recorder: FlightRecorder | None = None
    replay: RouterReplay | None = None

    def run(
        self,
        batch: Batch,
        steps: Sequence[MicroBatches],
        loss: Loss,
        *,
        temperature: float = 1.0,
        learning_rates: Sequence[float] | None = None,
        stop: Callable[[dict[str, float]], bool] | None = None,
        num_sources: int = 0,
        first_step: int = 0,
        total_steps: int = 0,
        skipping: Skipping | None = None,
    ) -> list[dict[str, float]]:
        """The metrics of each optimizer step, equal on every rank (collective).

        ``steps[i]`` are this rank's micro-batches of optimizer step i, as row numbers of ``batch``.
        ``first_step`` is the first one's number in the run, which has ``total_steps``.
        ``learning_rates`` None measures without training. ``stop`` ends the update early; it sees
        reduced metrics, so all ranks agree. With ``num_sources`` the loss of each source's rows is told besides (column
        ``source``), as ``loss_by_source/<number>``.

        A step whose loss or gradient is no number on some rank is taken on none: weights, states and loss scale stay as
        they were, and the others keep their learning rates. ``skipping`` counts them, and with None none may be. Raises
        Diverged, on every rank together, for one too many, and where a measured loss is no number.
        """
        skipping = skipping or Skipping()
        rows_of = batch.rows_of_samples()
        steps = [[[rows_of[sample] for sample in micro] for micro in step] for step in steps]
        parts = [step for whole in steps for step in self._parts(batch, whole, num_sources)]
        totals = iter(reduce_scalars([count for part in parts for count in self._counts(batch, part)]))
        counts = [[{name: next(totals) for name in COUNTS} for _ in range(1 + num_sources)] for _ in steps]
        history: list[dict[str, float]] = []
        for index, step in enumerate(steps):
            rate = learning_rates[index] if learning_rates is not None else None
            whole, *of_sources = counts[index]
            sources = SourceLosses([_at_least_one(one) if one["sequences"] else None for one in of_sources])
            number = first_step + index
            metrics, failure = self._step(batch, step, loss, _at_least_one(whole), sources, temperature, rate, number)
            skipping.saw(failure)
            if rate is not None and self.shaping is not None:
                metrics[self.shaping.left_metric] = self.shaping.cut(number, total_steps)
            if rate is not None and self.recorder is not None:
                self.recorder.end(metrics["grad_norm"])
            history.append(metrics)
            if stop is not None and failure is None and stop(metrics):
                break
        return history

    def _step(
        self,
        batch: Batch,
        step: MicroBatches,
        loss: Loss,
        denominators: dict[str, float],
        sources: SourceLosses,
        temperature: float,
        rate: float | None,
        number: int,
    ) -> tuple[dict[str, float], Diverged | None]:
        """Its metrics, and why it was not taken, if it was not."""
        sums, recorder = StepSums(), self.recorder if rate is not None else None
        if recorder is not None:
            recorder.begin()
        if rate is not None and self.shaping is not None:
            self.shaping.begin(number)
        if isinstance(loss, RelatingLoss):
            read = partial(self._read, loss, batch)
            batch = related(loss, batch, step, read, self.engine.device)
        for rows in step:
            columns = [*loss.columns, *(name for name in loss.optional_columns if name in batch)]
            micro = collate(self.family, batch, rows, columns, self.pad_token, self.engine.device, self.unread)
            if isinstance(loss, MeasuringLoss):
                micro = replace(micro, measure=loss.measure(micro.loss, self.num_tokens))
            noise = nullcontext() if rate is None else self._noise(batch, number, rows)
            replayed = nullcontext() if self.replay is None else self.replay.on(batch, micro)
            with torch.set_grad_enabled(rate is not None), noise, replayed:
                outputs = self.family.outputs(self.engine.forward, micro, loss.outputs, loss.reads, temperature)
                result = loss(outputs, micro.loss, denominators)
                if rate is not None:
                    self.engine.backward(result.loss)
            sums.add(result)
            if self.replay is not None and rate is not None:
                sums.add_metrics(self.replay.metrics(batch, micro))
            if recorder is not None:
                recorder.saw(batch, micro, outputs, result.loss, reads_tokens=loss.reads == "tokens")
            sums.add_metrics(sources.of(loss, outputs, batch, rows, micro.loss))
        reduced = sums.reduced(denominators)
        failure = None if math.isfinite(reduced["loss"]) else NonFiniteLoss("the loss", reduced["loss"], rate)
        if rate is None and failure is not None:
            raise failure
        metrics = loss.finalize(reduced)
        if rate is None:
            return metrics, None
        metrics["learning_rate"] = rate
        penalty = None if self.shaping is None else self.shaping.penalty()
        if self.shaping is not None and penalty is not None:
            metrics[self.shaping.penalty_metric] = float(penalty.detach())
        if failure is not None:
            self.engine.drop()
            return metrics | {"grad_norm": math.nan}, failure
        if penalty is not None:
            self.engine.backward(penalty / self.engine.world_size)  # of which each rank adds its share
        try:
            metrics["grad_norm"] = self.engine.step(rate)
        except NonFiniteGradients as error:
            return metrics | {"grad_norm": error.value}, error
        return metrics, None

    def _read(self, loss: Loss, batch: Batch, rows: Sequence[int]) -> Mapping[str, Tensor]:
        """What the loss asks the model of some rows."""
        micro = collate(self.family, batch, rows, (), self.pad_token, self.engine.device, self.unread)
        with nullcontext() if self.replay is None else self.replay.on(batch, micro):
            return self.family.outputs(self.engine.forward, micro, loss.outputs, loss.reads, 1.0)

    def _noise(self, batch: Batch, step: int, rows: Sequence[int]) -> AbstractContextManager[None]:
        if self.noise is None:
            return nullcontext()
        samples = batch.dense("sample")[list(rows)].tolist() if len(rows) else []
        lengths = [len(batch.ragged("prompt_ids")[row]) + len(batch.ragged("response_ids")[row]) for row in rows]
        return self.noise.on(step, samples, lengths)

    def _parts(self, batch: Batch, step: MicroBatches, num_sources: int) -> list[MicroBatches]:
        """A step, and of each source the part of it that is its rows."""
        of = batch.dense("source") if num_sources and len(batch) else np.zeros(0, np.int64)
        return [
            step,
            *([[row for row in micro if of[row] == number] for micro in step] for number in range(num_sources)),
        ]

    def _counts(self, batch: Batch, step: MicroBatches) -> list[float]:
        """In the order of ``COUNTS``."""
        everything = [row for micro in step for row in micro]
        if not everything:
            return [0.0] * len(COUNTS)
        is_text = batch.dense("ptx") == 1 if "ptx" in batch else np.zeros(len(batch), np.bool_)
        rows = [row for row in everything if not is_text[row]]
        units = len(set(batch.dense("unit")[rows].tolist()))
        of_texts = self._tokens(batch, [row for row in everything if is_text[row]])
        return [float(self._tokens(batch, rows)), float(len(rows)), float(units), float(of_texts)]

    def _tokens(self, batch: Batch, rows: Sequence[int]) -> int:
        mask = batch.response_mask()
        return sum(int(mask[row].sum()) for row in rows)


def _at_least_one(counts: dict[str, float]) -> dict[str, float]:
    return {name: max(1.0, count) for name, count in counts.items()}
