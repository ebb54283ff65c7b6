"""The ranks of a model role, or of a role that lives in another's group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from distft.checkpoint.manifest import FileRecord, NotWritten
from distft.clients.asking import ask, each, rows
from distft.clients.samples import Samples, data_of, report_of
from distft.config.models import Model
from distft.groups.handles import Call, DataRef, Group
from distft.tracking.flight import RankTrace
from distft.workers.reports import Memory, Ready, Saved, Updated
from distft.workers.verbs import MicroBatches, ModelVerbs, ReadAt, Store

_Work = TypeVar("_Work")
ByRank: TypeAlias = Sequence[MicroBatches]  # [rank][micro-batch] numbers of samples; ranks that share rows count as one


@dataclass(frozen=True)
class UpdateSpec:
    """A loss (its address) with its parameters, and where in the learning-rate schedule the update stands.

    ``num_sources``: of how many sources of data the loss is told one by one (column ``source``); 0: of none.
    In ``max_skipped_steps`` batches in a row steps may be left out as no numbers, in ``skipped_in_a_row`` right before
    they were.
    """

    loss: str
    parameters: Mapping[str, Any]
    first_step: int
    total_steps: int
    temperature: float = 1.0
    target_kl: float | None = None
    num_sources: int = 0
    max_skipped_steps: int = 0
    skipped_in_a_row: int = 0


@dataclass(frozen=True)
class Update:
    """``steps``: the metrics of each optimizer step, over all ranks; ``skipped``: see ``Updated``; what the first rank
    holds; what every rank recorded, where they do."""

    steps: tuple[dict[str, float], ...]
    skipped: tuple[str, ...]
    memory: Memory
    traces: tuple[RankTrace, ...]

    @classmethod
    def of(cls, reports: Sequence[Updated]) -> Update:
        """What the ranks reported."""
        first = reports[0]
        traces = tuple(one.trace for one in reports if one.trace is not None)
        return cls(first.steps, first.skipped, first.memory, traces)


@dataclass(frozen=True)
class ModelGroup:
    """All ranks of a role. ``guest``: a role that lives in the group of another, ``ranks``, and has no weights of its
    own: the frozen base under that one's adapters answers for it, and it is only read. ``shared_by``: how many
    neighbouring ranks compute the same rows (``models.sequence_parallel``). ``num_virtual_tokens``: how many stand
    before each row (``models.adapters.prompt``). ``packed``: all samples of a micro-batch stand in one row
    (``models.packing``).

    Every method is a call that is not started yet: see ``groups.handles``.
    """

    ranks: Group
    guest: str = ""
    shared_by: int = 1
    num_virtual_tokens: int = 0
    packed: bool = False

    @classmethod
    def of(cls, ranks: Group, model: Model) -> ModelGroup:
        """The ranks that compute with a role's model as its section says."""
        engine = model.engine
        shared, before, packed = engine.sequence_parallel, model.num_virtual_tokens, bool(engine.packed)
        return cls(ranks, shared_by=shared, num_virtual_tokens=before, packed=packed)

    @property
    def role(self) -> str:
        return self.guest or self.ranks.role

    @property
    def data_parallel_size(self) -> int:
        """How many have rows of their own: ranks, those that share rows counted as one."""
        return self.ranks.num_ranks // self.shared_by

    @property
    def micro_batch_cost(self) -> int | None:
        """See ``handles.Group``; tokens of ranks that share rows are done in a part of the time."""
        cost = self.ranks.micro_batch_cost
        return None if cost is None else cost * self.shared_by

    # ---- life

    def host_store(self) -> Call[Store]:
        """Opens the group's meeting point on its first rank."""
        return ask(self._own(), ModelVerbs.host_store).reading(report_of)

    def setup(self, store: Store, path: str, *, new_head: bool) -> Call[Ready]:
        """Builds the sharded model from ``path``; ``new_head`` allows a scalar head to be started."""
        return ask(self._own(), ModelVerbs.setup, store, path, new_head).reading(report_of)

    # ---- computing

    def forward(
        self,
        samples: Samples,
        column: str,
        micro_batches: ByRank,
        *,
        temperature: float = 1.0,
        entropy: bool = False,
        reads: ReadAt = "tokens",
    ) -> Call[DataRef]:
        """An evaluation pass; what it leaves has ``column`` and, if asked, ``entropy``."""
        return ask(
            self.ranks,
            ModelVerbs.forward,
            column,
            each(self._shared(micro_batches)),
            batch=rows_of_ranks(samples, self._shared(micro_batches)),
            temperature=temperature,
            entropy=entropy,
            reads=reads,
            adapters=not self.guest,
        ).reading(data_of)

    def distributions(
        self, samples: Samples, micro_batches: ByRank, *, top_k: int | None, temperature: float
    ) -> Call[DataRef]:
        """What a teacher tells of every token of the samples."""
        return ask(
            self._own(),
            ModelVerbs.distributions,
            top_k,
            each(self._shared(micro_batches)),
            batch=rows_of_ranks(samples, self._shared(micro_batches)),
            temperature=temperature,
        ).reading(data_of)

    def update(self, samples: Samples, spec: UpdateSpec, steps: Sequence[ByRank]) -> Call[Update]:
        """Optimizer steps over ``steps[step][rank]``."""
        by_rank = self._shared([[step[rank] for step in steps] for rank in range(self.data_parallel_size)])
        needed = [sorted({s for step in mine for micro in step for s in micro}) for mine in by_rank]
        return ask(
            self._own(),
            ModelVerbs.update,
            spec.loss,
            dict(spec.parameters),
            spec.first_step,
            spec.total_steps,
            each(by_rank),
            batch=rows(samples.data, needed),
            temperature=spec.temperature,
            target_kl=spec.target_kl,
            num_sources=spec.num_sources,
            max_skipped_steps=spec.max_skipped_steps,
            skipped_in_a_row=spec.skipped_in_a_row,
        ).reading(lambda result: Update.of(result.reports))

    def evaluate(
        self, samples: Samples, loss: str, parameters: Mapping[str, Any], micro_batches: ByRank, num_sources: int = 0
    ) -> Call[dict[str, float]]:
        """The loss and its metrics over the samples, without training."""
        return ask(
            self._own(),
            ModelVerbs.evaluate,
            loss,
            dict(parameters),
            each(self._shared(micro_batches)),
            batch=rows_of_ranks(samples, self._shared(micro_batches)),
            num_sources=num_sources,
        ).reading(report_of)

    # ---- keeping

    def save(self, staging: str) -> Call[tuple[FileRecord | NotWritten, ...]]:
        """Every rank's share of a checkpoint: the files of all."""
        return ask(self._own(), ModelVerbs.save, staging).reading(
            lambda result: tuple(record for report in result.reports for record in report)
        )

    def copy(self, folder: str) -> Call[tuple[tuple[str, ...] | NotWritten, ...]]:
        """As ``save``, into a folder in the memory of each rank's node: by rank the paths of its files below it."""
        return ask(self._own(), ModelVerbs.copy, folder).reading(lambda result: result.reports)

    def begin_save(self, staging: str) -> Call[None]:
        """As ``save``, but written while the calls that follow are answered."""
        return ask(self._own(), ModelVerbs.begin_save, staging).reading(report_of)

    def save_ended(self) -> Call[bool]:
        """Whether every rank has written what ``begin_save`` began, or could not."""
        return ask(self._own(), ModelVerbs.save_ended).reading(lambda result: all(result.reports))

    def finish_save(self) -> Call[Saved]:
        """The files of all ranks, waited for, and the seconds of the slowest."""
        return ask(self._own(), ModelVerbs.finish_save).reading(
            lambda result: Saved(
                tuple(record for report in result.reports for record in report.files),
                max(report.seconds for report in result.reports),
            )
        )

    def load(self, checkpoint: str) -> Call[None]:
        """What ``save`` wrote, on any number of ranks."""
        return ask(self._own(), ModelVerbs.load, checkpoint).reading(report_of)

    def write_weights(self, folder: str) -> Call[None]:
        """All weights into a folder, for ``take_weights`` of another group."""
        return ask(self._own(), ModelVerbs.write_weights, folder).reading(report_of)

    def take_weights(self, folder: str, share: float) -> Call[None]:
        """A share of the weights that lie there, and the rest of its own."""
        return ask(self._own(), ModelVerbs.take_weights, folder, share).reading(report_of)

    def check_export(self) -> Call[None]:
        """That what ``export`` will write can be read again. Its UserError is the user's."""
        return ask(self._own(), ModelVerbs.check_export).reading(report_of)

    def export(self, folder: str) -> Call[None]:
        """A plain Hugging Face folder of the result."""
        return ask(self._own(), ModelVerbs.export, folder).reading(report_of)

    def _shared(self, of_each: Sequence[_Work]) -> list[_Work]:
        """The same for all ranks that share rows."""
        return [work for work in of_each for _ in range(self.shared_by)]

    def _own(self) -> Group:
        """The ranks, for what a guest is not asked. Raises ValueError."""
        if self.guest:
            raise ValueError(f"{self.guest} lives in the group of {self.ranks.role}: it is only read")
        return self.ranks


def rows_of_ranks(samples: Samples, micro_batches: ByRank) -> Any:
    """Each rank's rows in the order of its micro-batches."""
    return rows(samples.data, [[sample for micro in rank for sample in micro] for rank in micro_batches])
