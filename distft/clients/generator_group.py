"""The ranks of a policy, asked for responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distft.clients.asking import ask, each
from distft.clients.model_group import ByRank, rows_of_ranks
from distft.clients.samples import Samples, data_of, report_of
from distft.groups.handles import Call, DataRef, Group, Result
from distft.rollout.generator import Sampling
from distft.workers.reports import Answers, Synced
from distft.workers.verbs import GeneratorVerbs


@dataclass(frozen=True)
class Generated:
    """Responses in the object store; ``lengths`` in tokens by sample; ``version`` of the weights that wrote them."""

    responses: DataRef
    lengths: Mapping[int, int]
    version: int
    seconds: float


@dataclass(frozen=True)
class GeneratorGroup:
    """All ranks of a policy that answers prompts. Every method is a call that is not started yet."""

    ranks: Group

    @property
    def num_ranks(self) -> int:
        return self.ranks.num_ranks

    def sync_weights(self, version: int) -> Call[Synced]:
        """The current weights to the generators, as ``version``."""
        return ask(self.ranks, GeneratorVerbs.sync_weights, version).reading(report_of)

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


def _generated(result: Result[Answers]) -> Generated:
    lengths = {
        sample: length
        for report in result.reports
        for sample, length in zip(report.samples, report.lengths, strict=True)
    }
    return Generated(data_of(result), lengths, result.report.version, result.seconds)
