"""A rollout to an iteration's experience: log-probs, values and scores -> what every token is worth.

    rollout
      `-- together: policy old_logprobs+entropy | reference ref_logprobs | value values | reward score
            `-- data worker: the method's way of assigning credit (`credit`) --> advantages, returns, ...
                                                                 or the samples that are trained on

Groups compute at once where the plan gave them devices of their own; one that the run has not is simply not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distft.batches import Difference
from distft.clients.samples import Samples
from distft.experience.passes import forward_pass
from distft.experience.rollouts import Sampler
from distft.groups.handles import Call, DataRef, together


@dataclass(frozen=True)
class Experience:
    """An iteration ready for the updates. ``of_role``: the samples that are trained on, perhaps not all of
    ``rollout`` or none, with only the columns that its loss reads; ``state`` is the method's own, for the next
    iteration."""

    of_role: Mapping[str, Samples]
    rollout: Samples
    scores: tuple[DataRef, ...]
    metrics: dict[str, float]
    state: dict[str, Any]
    reference_difference: Difference | None
    trainer_difference: Difference


def build_experience(
    sampler: Sampler, rollout: Samples, start: int | None, state: Mapping[str, Any], *, bootstrap: bool = False
) -> Experience:
    """The experience of a rollout of the train prompts from position ``start``; None: it has its scores already.

    ``state`` is what the method left in the iteration before; ``bootstrap``: it wants the value behind the last token
    too.
    """
    passes = logprob_passes(sampler, rollout, entropy=True) | value_passes(sampler, rollout, bootstrap=bootstrap)
    scoring = [] if start is None else sampler.model_scores(rollout, "train", start)
    results = together(*passes.values(), *scoring)
    columns = dict(zip(passes, results, strict=False))
    means, scores = dict[str, float](), tuple[DataRef, ...]()
    if start is not None:
        means, scores = sampler.with_function_scores(results[len(passes) :], rollout, "train", start)
    credited, worth = sampler.data.assign_credit(state, [*rollout.data, *columns.values(), *scores]).result()
    own = {role: rollout.with_data(columns[role], worth) for role in columns if role in sampler.groups}
    if credited.chosen is not None:
        own = dict.fromkeys(own, Samples.described((worth,), credited.chosen))
    return Experience(
        of_role=own,
        rollout=rollout,
        scores=scores,
        metrics=credited.metrics | means,
        state=credited.state,
        reference_difference=credited.reference_difference,
        trainer_difference=credited.trainer_difference,
    )


def logprob_passes(sampler: Sampler, rollout: Samples, **options: Any) -> dict[str, Call[DataRef]]:
    """The policy's ``old_logprobs`` and, where there is a reference, its ``ref_logprobs``; not started yet.

    ``options`` of the policy's pass, such as ``entropy``.
    """
    cap, temperature = sampler.recipe.train.max_tokens_per_rank, sampler.recipe.rollout.temperature
    policy, reference = sampler.groups["policy"], sampler.groups.get("reference")
    calls = {"policy": forward_pass(policy, rollout, "old_logprobs", cap, temperature=temperature, **options)}
    if reference is not None:
        calls["reference"] = forward_pass(reference, rollout, "ref_logprobs", cap, temperature=temperature)
    return calls


def value_passes(sampler: Sampler, rollout: Samples, *, bootstrap: bool) -> dict[str, Call[DataRef]]:
    """The value model's ``values`` before each token and, for ``bootstrap``, behind the last; nothing without one."""
    cap, value = sampler.recipe.train.max_tokens_per_rank, sampler.groups.get("value")
    if value is None:
        return {}
    calls = {"value": forward_pass(value, rollout, "values", cap)}
    if bootstrap:
        calls["bootstrap"] = forward_pass(value, rollout, "bootstrap_values", cap, reads="last")
    return calls
