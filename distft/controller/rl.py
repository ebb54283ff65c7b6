"""The loop of every method that samples for itself: one iteration a step.

for step in session.steps():
    rollouts   = generator.generate(prompts), in as many rounds as the method asks for
    with overlap the generator begins the next iteration's, which are waited for before the weight sync
    experience = log-probs, values of the models that there are -> what every token is worth
    report     = update(role, loss) of every trained role    together where they do not share devices
    weight sync; a reference that follows the policy does so; the method's state; log, checkpoint, evaluate
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from distft.clients.model_group import Update, UpdateSpec
from distft.clients.samples import Samples
from distft.config.role_table import Role
from distft.controller.collecting import Collected, begin_next, collect
from distft.controller.evaluating import evaluate_if_due
from distft.controller.invariants import beyond_rounding, check_generator, check_reference
from distft.controller.renewal import is_renewed, renew_reference
from distft.controller.session import Session
from distft.controller.skipping import allowance, note_skipped
from distft.experience.experience import Experience, build_experience
from distft.experience.passes import Work, update_pass
from distft.experience.schedule import minibatches
from distft.groups.handles import together

log = logging.getLogger(__name__)


def train_rl(session: Session) -> None:
    """Runs to the last iteration, from wherever the progress stands."""
    progress = session.progress
    for step in session.steps():
        with session.phase("rollout"):
            collected = collect(session, step)
            start, _ = session.visits.take(progress.position)
            session.saw(step, collected.rollout, start, collected.end - start)
        rollout = collected.rollout
        begun = begin_next(session, step, collected.end)
        with session.phase("experience"):
            bootstrap = session.recipe.algorithm.values_ends()
            experience = build_experience(
                session.sampler, rollout, collected.start, progress.method_state, bootstrap=bootstrap
            )
        check_invariants(session, experience, collected, step)
        with session.phase("update"):
            metrics, num_steps = update(session, experience, updates(session, step))
        if begun is not None:
            with session.phase("rollout"):
                session.ahead = begun.round()
        sync_weights(session, step)
        if is_renewed(session, step):
            renew_reference(session)
        write_samples(session, experience)
        progress.method_state = experience.state
        progress.finish(position=collected.end, num_tokens=rollout.num_tokens, optimizer_steps=num_steps)
        session.log_step({**experience.metrics, **collected.metrics, **metrics}, rollout.lengths)
        evaluate_if_due(session)
        session.checkpoint_if_due()


def check_invariants(session: Session, experience: Experience, collected: Collected, step: int) -> None:
    """Before the first update: policy = reference (where there is one) = generator. Later a generator that differs is
    a warning, but for one that samples ahead: it has other weights."""
    if step == 1:
        reference = experience.reference_difference
        if reference is not None:
            check_reference(session.recipe, reference)
        check_generator(session.recipe, experience.trainer_difference)
        found = {} if reference is None else {"reference_difference": asdict(reference)}
        session.tracker.event("invariants", **found)
    elif session.recipe.rollout.overlap and collected.metrics["rollout/staleness"]:
        return
    elif beyond := beyond_rounding(session.recipe, experience.trainer_difference):
        session.tracker.event("generator_differs", step=step, **asdict(experience.trainer_difference))
        log.warning("iteration %d: the generator's log-probs differ from the trainer's by %s", step, beyond)


def updates(session: Session, step: int) -> list[Role]:
    """The roles that are updated in an iteration; the policy, whose result it is, last."""
    algorithm = session.recipe.algorithm
    return [role for role in reversed(algorithm.traits.trained) if step > algorithm.held_iterations(role)]


def update(session: Session, experience: Experience, due: list[Role]) -> tuple[dict[str, float], int]:
    """Epochs x minibatches optimizer steps on every role of ``due``, at once where they share no devices.

    Returns the metrics, means over the steps, and the number of optimizer steps planned: the learning-rate schedule
    goes by plan, so that neither an early stop at ``target_kl`` shifts it nor an iteration of which nothing is trained.
    """
    recipe, progress = session.recipe, session.progress
    algorithm = recipe.algorithm
    units, cap = experience.of_role["policy"].units, recipe.train.max_tokens_per_rank
    epochs, per_epoch = algorithm.optimizer_steps()
    per_iteration = epochs * per_epoch
    if not units:
        return {}, per_iteration
    number = min(per_epoch, len(set(units)))  # the last batch of an epoch may be smaller
    steps = [
        chosen
        for epoch in range(epochs)
        for chosen in minibatches(units, number, recipe.seed, progress.step * epochs + epoch)
    ]
    calls, work = {}, Work()
    session.weights.policy_learns()
    for role in due:
        # A role that is held warms up from its own first step on.
        held = algorithm.held_iterations(role) * per_iteration
        spec = UpdateSpec(
            *algorithm.loss_of(role),
            progress.optimizer_steps - held,
            progress.total_steps * per_iteration - held,
            recipe.rollout.temperature,
            algorithm.stops_at_kl(role),
            **allowance(session, role),
        )
        samples, of_role = experience.of_role[role], steps
        if role == "policy" and algorithm.ptx_rows():
            samples, of_role = with_texts(session, samples, steps, spec.first_step)
        calls[role] = update_pass(session.groups[role], samples, of_role, spec, cap, work)
    results = dict(zip(calls, together(*calls.values()), strict=True))
    metrics = work.metrics()
    for role, updated in results.items():
        session.tracker.flight(progress.step + 1, role, updated.traces)
        note_skipped(session, progress.step + 1, role, updated)
        metrics |= named(role, mean_of(taken(updated)))
        metrics[f"memory/{role}_rss_bytes"] = updated.memory.rss_bytes
    return metrics, per_iteration


def with_texts(
    session: Session, samples: Samples, steps: Sequence[Sequence[int]], first_step: int
) -> tuple[Samples, list[list[int]]]:
    """Samples and steps with the rows of ``data.ptx`` that each of these optimizer steps, numbered from
    ``first_step`` on in the run, takes beside its own."""
    rows, base = session.recipe.algorithm.ptx_rows(), len(samples.lengths)
    both = session.data.with_texts(first_step * rows, len(steps) * rows, samples.data).result()
    return both, [[*own, *range(base + number * rows, base + (number + 1) * rows)] for number, own in enumerate(steps)]


def named(role: str, metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that several trained roles have, told apart: the policy's plain, another's marked."""
    if role == "policy":
        return metrics
    shared = ("loss", "grad_norm", "learning_rate")
    return {(f"{role}/{name}" if name in shared else name): value for name, value in metrics.items()}


def taken(updated: Update) -> list[dict[str, float]]:
    """The metrics of the optimizer steps that were not left out; of all where all were."""
    found = [metrics for metrics, reason in zip(updated.steps, updated.skipped, strict=True) if not reason]
    return found or list(updated.steps)


def mean_of(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the optimizer steps of an update."""
    names = history[0].keys()
    return {name: sum(one[name] for one in history) / len(history) for name in names}


def sync_weights(session: Session, version: int) -> None:
    """The policy's weights to its generator, as ``version`` (the number of the last finished iteration)."""
    with session.phase("weight_sync"):
        session.weights.sync(version)


def write_samples(session: Session, experience: Experience) -> None:
    """Some of the iteration's responses, for people to read, every ``tracking.samples_every`` iterations."""
    tracking, step = session.recipe.tracking, session.progress.step + 1
    if not tracking.samples_every or (step - 1) % tracking.samples_every:
        return
    data = [*experience.rollout.data, *experience.scores]
    session.tracker.samples(step, session.data.texts(tracking.samples_count, data).result())
