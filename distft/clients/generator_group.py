"""Who answers prompts: the ranks of a policy, or engines that get its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from distft.clients.asking import ask, each
from distft.clients.model_group import ByRank, rows_of_ranks
from distft.clients.samples import Samples, data_of, report_of
from distft.common.errors import RunFailed
from distft.groups.handles import Call, DataRef, Group, Result
from distft.rollout.generator import Sampling
from distft.workers.reports import Answers, EngineReady, Sent, Synced
from distft.workers.verbs import EngineVerbs, GeneratorVerbs, Store


@dataclass(frozen=True)
class Generated:
    """Responses in the object store; ``lengths`` in tokens by sample; ``version`` of the weights that wrote them.
    ``num_observed`` of all these tokens are an environment's; ``metrics`` of the turns, where there are several."""

    responses: DataRef
    lengths: Mapping[int, int]
    version: int
    seconds: float
    num_observed: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AnsweringGroup:
    """All ranks that answer prompts. Every method is a call that is not started yet."""

    ranks: Group

    @property
    def num_ranks(self) -> int:
        return self.ranks.num_ranks

    def generate(
        self, prompts: Samples, sampling: Sampling, micro_batches: ByRank, *, seed: int, iteration: int
    ) -> Call[Generated]:
        """Responses to the prompts."""
        return ask(
            self.ranks,
            GeneratorVerbs.generate,
            sampling,
            seed,
            iteration,
            each(micro_batches),
            batch=rows_of_ranks(prompts, micro_batches),
        ).reading(_generated)


@dataclass(frozen=True)
class GeneratorGroup(AnsweringGroup):
    """The ranks of a policy, which answer with its own weights."""

    def sync_weights(self, version: int) -> Call[Synced]:
        """The current weights to the generators, as ``version``."""
        return ask(self.ranks, GeneratorVerbs.sync_weights, version).reading(report_of)


@dataclass(frozen=True)
class EngineGroup(AnsweringGroup):
    """Engines of their own, which answer with what the ranks of a ``policy`` send them; those met at ``store``."""

    policy: Group
    store: Store

    def send_weights(self, version: int, channel: int) -> Call[Sent]:
        """The policy's current weights to all engines, which must receive them at the same time, by that channel."""
        return ask(self.policy, GeneratorVerbs.send_weights, self.num_ranks, version, channel).reading(report_of)

    def receive_weights(self, version: int, channel: int, renew: Callable[[], bool]) -> Call[tuple[Sent | None, ...]]:
        """What is sent, by every engine; None of one that died meanwhile. ``renew``: see ``Call``."""
        call = ask(self.ranks, EngineVerbs.receive_weights, self.store, version, channel)
        return replace(call, renew=renew).reading(lambda result: result.reports)


def engine_setup(engines: Group, path: str) -> Call[EngineReady]:
    """Builds the engines for the model at ``path``."""
    return ask(engines, EngineVerbs.setup, path).reading(report_of)


def _generated(result: Result[Answers]) -> Generated:
    versions = sorted({report.version for report in result.reports})
    if len(versions) > 1:
        said = ", ".join(map(str, versions))
        raise RunFailed(f"who answers prompts does so with weights of versions {said}", kind="exception")
    lengths = {
        sample: length
        for report in result.reports
        for sample, length in zip(report.samples, report.lengths, strict=True)
    }
    return Generated(data_of(result), lengths, result.report.version, result.seconds)
