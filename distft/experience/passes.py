"""One pass of a group over samples: a schedule, and the call that carries it out.

Everything here handles references, lengths and small numbers; the token tensors stay with the workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distft.clients.generator_group import AnsweringGroup, Generated
from distft.clients.model_group import ByRank, ModelGroup, Update, UpdateSpec
from distft.clients.samples import Samples
from distft.config.method import Telling
from distft.experience.schedule import Schedule, schedule
from distft.groups.handles import Call, DataRef
from distft.rollout.generator import Sampling


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


def planned(samples: Samples, group: ModelGroup, max_tokens: int, chosen: Sequence[int] | None = None) -> Schedule:
    """The schedule of a group's ranks over all samples, or over the ``chosen`` ones (micro-batches name samples)."""
    numbers = list(range(len(samples.lengths))) if chosen is None else list(chosen)
    plan = schedule(
        [samples.lengths[i] + group.num_virtual_tokens for i in numbers],
        [samples.units[i] for i in numbers],
        group.data_parallel_size,
        max_tokens * group.shared_by,
        micro_batch_cost=group.micro_batch_cost,
        answers=[samples.answers[i] for i in numbers] if samples.answers and not group.packed else (),
        packed=group.packed,
    )
    return plan if chosen is None else replace(plan, micro_batches=_named(plan.micro_batches, numbers))


def forward_pass(group: ModelGroup, samples: Samples, column: str, max_tokens: int, **options: Any) -> Call[DataRef]:
    """An evaluation forward of all samples, which leaves ``column``. ``options``: see ``ModelGroup.forward``."""
    return group.forward(samples, column, planned(samples, group, max_tokens).micro_batches, **options)


def distributions_pass(group: ModelGroup, samples: Samples, telling: Telling, max_tokens: int) -> Call[DataRef]:
    """What a teacher tells of all samples, which leaves ``teacher_logprobs`` and perhaps ``teacher_ids``."""
    plan = planned(samples, group, max_tokens)
    return group.distributions(samples, plan.micro_batches, top_k=telling.top_k, temperature=telling.temperature)


def evaluate_pass(
    group: ModelGroup, samples: Samples, loss: str, parameters: Mapping[str, Any], max_tokens: int, num_sources: int = 0
) -> Call[dict[str, float]]:
    """The loss and its metrics over all samples, without training."""
    return group.evaluate(samples, loss, parameters, planned(samples, group, max_tokens).micro_batches, num_sources)


def update_pass(
    group: ModelGroup, samples: Samples, steps: Sequence[Sequence[int]], spec: UpdateSpec, max_tokens: int, work: Work
) -> Call[Update]:
    """Optimizer steps over ``steps`` (sample numbers of each): the one update of every algorithm."""
    plans = [planned(samples, group, max_tokens, chosen) for chosen in steps]
    work.schedules.extend(plans)
    return group.update(samples, spec, [plan.micro_batches for plan in plans])


def generate_pass(
    group: AnsweringGroup,
    prompts: Samples,
    sampling: Sampling,
    *,
    seed: int,
    iteration: int,
    max_batch: int,
    numbers: Sequence[int] | None = None,
) -> Call[Generated]:
    """Responses to all prompts, at most ``max_batch`` at once on a rank, prompts of like length together. ``numbers``
    of their samples, where these are not counted from 0."""
    longest = max(prompts.lengths) + sampling.max_new_tokens
    plan = schedule(
        [length + sampling.max_new_tokens for length in prompts.lengths],
        range(len(prompts.lengths)),
        group.num_ranks,
        max_batch * longest,
        max_rows=max_batch,
    )
    micro_batches = plan.micro_batches if numbers is None else _named(plan.micro_batches, numbers)
    return group.generate(prompts, sampling, micro_batches, seed=seed, iteration=iteration)


def _named(micro_batches: ByRank, numbers: Sequence[int]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Micro-batches by the numbers of samples in place of their places."""
    return tuple(tuple(tuple(numbers[place] for place in micro) for micro in rank) for rank in micro_batches)
