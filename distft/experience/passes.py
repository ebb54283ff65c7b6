"""One pass of a group over samples: a schedule, and the call that carries it out.

Everything here handles references, lengths and small numbers; the token tensors stay with the workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distft.experience.schedule import Schedule, schedule
from distft.groups.handles import Call, DataRef, Group
from distft.rollout.generator import Sampling


@dataclass(frozen=True)
class Samples:
    """What the controller knows of samples: where their columns are, how long they are, what belongs together.

    ``lengths[i]`` tokens (prompt and response) and ``units[i]`` of sample i; ``data`` references to columns
    over these samples.
    """

    data: tuple[DataRef, ...]
    lengths: tuple[int, ...]
    units: tuple[int, ...]

    def with_data(self, *more: DataRef) -> Samples:
        """The same samples with further columns."""
        return Samples((*self.data, *more), self.lengths, self.units)

    @property
    def num_tokens(self) -> int:
        """Real tokens of all samples."""
        return sum(self.lengths)


@dataclass
class Work:
    """What the schedules of one step cost: for the padding and imbalance metrics."""

    schedules: list[Schedule] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """``perf/padding_fraction`` and ``perf/imbalance``, means over the step's schedules."""
        count = max(1, len(self.schedules))
        return {
            "perf/padding_fraction": sum(plan.padding_fraction for plan in self.schedules) / count,
            "perf/imbalance": sum(plan.imbalance for plan in self.schedules) / count,
        }


def planned(samples: Samples, group: Group, max_tokens: int, chosen: Sequence[int] | None = None) -> Schedule:
    """The schedule of a group's ranks over all samples, or over the ``chosen`` ones (micro-batches name samples)."""
    numbers = list(range(len(samples.lengths))) if chosen is None else list(chosen)
    plan = schedule(
        [samples.lengths[i] for i in numbers],
        [samples.units[i] for i in numbers],
        group.num_ranks,
        max_tokens,
        micro_batch_cost=group.micro_batch_cost,
    )
    if chosen is None:
        return plan
    named = tuple(tuple(tuple(numbers[i] for i in micro) for micro in rank) for rank in plan.micro_batches)
    return Schedule(named, plan.costs, plan.num_tokens)


def forward_pass(group: Group, samples: Samples, column: str, max_tokens: int, **options: Any) -> Call:
    """An evaluation forward of all samples; its result holds ``column``."""
    plan = planned(samples, group, max_tokens)
    return group.call(
        "forward",
        column,
        each=[(micro,) for micro in plan.micro_batches],
        data=samples.data,
        samples=_by_rank(plan),
        **options,
    )


def evaluate_pass(group: Group, samples: Samples, loss: str, parameters: Mapping[str, Any], max_tokens: int) -> Call:
    """The loss and its metrics over all samples, without training."""
    plan = planned(samples, group, max_tokens)
    return group.call(
        "evaluate",
        loss,
        dict(parameters),
        each=[(micro,) for micro in plan.micro_batches],
        data=samples.data,
        samples=_by_rank(plan),
    )


@dataclass(frozen=True)
class UpdateSpec:
    """A loss with its parameters, and where in the learning-rate schedule the update stands."""

    loss: str
    parameters: Mapping[str, Any]
    first_step: int
    total_steps: int
    temperature: float = 1.0
    target_kl: float | None = None


def update_pass(
    group: Group, samples: Samples, steps: Sequence[Sequence[int]], spec: UpdateSpec, max_tokens: int, work: Work
) -> Call:
    """Optimizer steps over ``steps`` (sample numbers of each): the one update of every algorithm."""
    plans = [planned(samples, group, max_tokens, chosen) for chosen in steps]
    work.schedules.extend(plans)
    ranks = range(group.num_ranks)
    return group.call(
        "update",
        spec.loss,
        dict(spec.parameters),
        spec.first_step,
        spec.total_steps,
        each=[([plan.micro_batches[rank] for plan in plans],) for rank in ranks],
        data=samples.data,
        samples=[sorted({s for plan in plans for micro in plan.micro_batches[rank] for s in micro}) for rank in ranks],
        temperature=spec.temperature,
        target_kl=spec.target_kl,
    )


def generate_pass(
    group: Group, prompts: Samples, sampling: Sampling, *, seed: int, iteration: int, max_batch: int
) -> Call:
    """Responses to all prompts, at most ``max_batch`` at once on a rank, prompts of like length together."""
    longest = max(prompts.lengths) + sampling.max_new_tokens
    plan = schedule(
        [length + sampling.max_new_tokens for length in prompts.lengths],
        range(len(prompts.lengths)),
        group.num_ranks,
        max_batch * longest,
        max_rows=max_batch,
    )
    return group.call(
        "generate",
        sampling,
        seed,
        iteration,
        each=[(micro,) for micro in plan.micro_batches],
        data=prompts.data,
        samples=_by_rank(plan),
    )


def _by_rank(plan: Schedule) -> list[list[int]]:
    return [[sample for micro in rank for sample in micro] for rank in plan.micro_batches]
