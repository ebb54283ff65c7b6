"""The PPO loop (Ouyang et al. 2022): four groups, one iteration a step.

for step in progress.steps():
    rollouts   = policy.generate(prompts)
    experience = old, ref log-probs | values | scores -> rewards, advantages
    report     = update(value) + update(policy)        together where they do not share devices
    weight sync; KL coefficient; log, checkpoint, evaluate
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from distft.config.algorithms import Ppo
from distft.controller.evaluating import evaluate_if_due, ppo_groups
from distft.controller.invariants import beyond_rounding, check_generator, check_reference
from distft.controller.session import Session
from distft.experience.losses import loss_parameters
from distft.experience.passes import Samples, UpdateSpec, Work, update_pass
from distft.experience.ppo import Experience, PpoGroups, build_experience, roll_out, take_prompts
from distft.experience.schedule import minibatches
from distft.groups.handles import together
from distft.tracking.metrics import Sample

log = logging.getLogger(__name__)


def train_ppo(session: Session) -> None:
    """Runs to the last iteration, from wherever the progress stands."""
    recipe, progress = session.recipe, session.progress
    algorithm = recipe.algorithm
    assert isinstance(algorithm, Ppo)
    groups = ppo_groups(session)
    if session.fresh:
        progress.kl_coef = algorithm.kl_coef
    for step in progress.steps():
        start, num_prompts = session.visits.take(progress.position)
        with session.timer.phase("rollout"):
            session.tracker.phase("rollout")
            prompts, _ = take_prompts(groups.data, "train", start, num_prompts, recipe.rollout.samples_per_prompt)
            rollout, generated = roll_out(groups, recipe, prompts, seed=recipe.seed, iteration=step)
        with session.timer.phase("experience"):
            session.tracker.phase("experience")
            experience = build_experience(groups, recipe, rollout, start, settings(session, algorithm))
        if step == 1:
            check_reference(recipe, experience.reference_difference)
            check_generator(recipe, experience.trainer_difference)
            session.tracker.event("invariants", reference_difference=asdict(experience.reference_difference))
        elif beyond := beyond_rounding(recipe, experience.trainer_difference):
            session.tracker.event("generator_differs", step=step, **asdict(experience.trainer_difference))
            log.warning("iteration %d: the generator's log-probs differ from the trainer's by %s", step, beyond)
        with session.timer.phase("update"):
            session.tracker.phase("update")
            metrics, num_steps = update(session, groups, experience, algorithm)
        sync_weights(session, groups, step)
        generated_tokens = sum(rollout.lengths) - sum(prompts.lengths)
        metrics |= {
            "rollout/tokens_per_second": generated_tokens / generated.seconds,
            "rollout/staleness": float(step - 1 - generated.report["version"]),
            "rollout/response_length": generated_tokens / len(rollout.lengths),
        }
        write_samples(session, groups, experience)
        if trains_policy(session, algorithm):
            progress.kl_coef = experience.next_kl_coef
        progress.score_state = experience.score_state
        progress.finish(position=start + num_prompts, num_tokens=rollout.num_tokens, optimizer_steps=num_steps)
        session.log_step({**experience.metrics, **metrics}, rollout.lengths)
        evaluate_if_due(session)
        session.checkpoint_if_due()


def settings(session: Session, algorithm: Ppo) -> dict[str, Any]:
    """The algorithm's keys with the state that changes from iteration to iteration."""
    keys = algorithm.model_dump(exclude={"kind"})
    return {**keys, "kl_coef": session.progress.kl_coef, "score_state": session.progress.score_state}


def trains_policy(session: Session, algorithm: Ppo) -> bool:
    """Whether the iteration at hand updates the policy. While it is held nothing of it moves: not what steers its
    KL either, and its learning rate warms up from its own first step on."""
    return session.progress.step >= algorithm.value_warmup_steps


def update(session: Session, groups: PpoGroups, experience: Experience, algorithm: Ppo) -> tuple[dict[str, float], int]:
    """Epochs x minibatches optimizer steps on value and policy, at once where they share no devices.

    Returns the metrics, means over the steps, and the number of optimizer steps planned: the learning-rate schedule
    goes by plan, so that an early stop at ``target_kl`` does not shift it.
    """
    recipe, progress = session.recipe, session.progress
    units, cap = experience.rollout.units, recipe.train.max_tokens_per_rank
    number = min(algorithm.minibatches, len(set(units)))  # the last batch of an epoch may be smaller
    steps = [
        chosen
        for epoch in range(algorithm.epochs)
        for chosen in minibatches(units, number, recipe.seed, progress.step * algorithm.epochs + epoch)
    ]
    per_iteration = algorithm.epochs * algorithm.minibatches
    total = progress.total_steps * per_iteration
    work = Work()

    def call(group: Any, samples: Samples, loss: str, held: int = 0, target_kl: float | None = None) -> Any:
        parameters = loss_parameters(algorithm, loss)
        temperature = recipe.rollout.temperature
        spec = UpdateSpec(loss, parameters, progress.optimizer_steps - held, total - held, temperature, target_kl)
        return update_pass(group, samples, steps, spec, cap, work)

    calls = {"value": call(groups.value, experience.value, "ppo_value")}
    if trains_policy(session, algorithm):
        held = algorithm.value_warmup_steps * per_iteration
        calls["policy"] = call(groups.policy, experience.policy, "ppo_policy", held, algorithm.target_kl)
    results = dict(zip(calls, together(*calls.values()), strict=True))
    metrics = work.metrics()
    for role, result in results.items():
        metrics |= named(role, mean_of([dict(one) for one in result.report["steps"]]))
        metrics[f"memory/{role}_rss_bytes"] = result.report["rss_bytes"]
    return metrics, per_iteration


def named(role: str, metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that both trained roles have, told apart: the policy's plain, the value model's marked."""
    for helper in ("seconds", "num_tokens"):
        metrics.pop(helper, None)
    if role == "policy":
        return metrics
    shared = ("loss", "grad_norm", "learning_rate")
    return {(f"value/{name}" if name in shared else name): value for name, value in metrics.items()}


def mean_of(history: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the optimizer steps of an update."""
    names = history[0].keys()
    return {name: sum(one[name] for one in history) / len(history) for name in names}


def sync_weights(session: Session, groups: PpoGroups, version: int) -> None:
    """The policy's weights to its generator, as ``version`` (the number of the last finished iteration)."""
    with session.timer.phase("weight_sync"):
        session.tracker.phase("weight sync")
        groups.policy.call("sync_weights", version).result()


def write_samples(session: Session, groups: PpoGroups, experience: Experience) -> None:
    """Some of the iteration's responses, for people to read, every ``tracking.samples_every`` iterations."""
    tracking, step = session.recipe.tracking, session.progress.step + 1
    if not tracking.samples_every or (step - 1) % tracking.samples_every:
        return
    data = [*experience.rollout.data, *experience.scores]
    rows = groups.data.call("texts", tracking.samples_count, data=data).result().report
    session.tracker.samples(step, [Sample(row["prompt"], row["completion"], row.get("score")) for row in rows])
