"""The loop of everything that learns from given rows: SFT, reward models, DPO and its kin.

for step in session.steps():
    KL baseline of the samples                   where the method has one: by the policy as the last update left it
    update(trained group, samples)               started
    reference, teacher(samples of the next step) started beside it: where they share no devices, at once
    all awaited; log, evaluate, checkpoint

Reference and teacher are frozen, so their pass over the next samples need not wait for this update. A reference that
follows the policy does so behind a step's update, and reads the next samples then. Samples that the policy answers
itself are there when the update has been done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from distft.clients.model_group import UpdateSpec
from distft.clients.samples import Samples
from distft.config.recipe import Recipe
from distft.config.roles import answers_in_training, main_role
from distft.controller.evaluating import evaluate_if_due
from distft.controller.invariants import check_first_loss, check_reference, meant_to_differ
from distft.controller.own_answers import is_on_policy, own_answers
from distft.controller.renewal import is_renewed, renew_reference
from distft.controller.session import Session
from distft.controller.skipping import allowance, note_skipped
from distft.experience.passes import Work, evaluate_pass, forward_pass, update_pass
from distft.experience.preference import frozen_passes, with_baseline
from distft.groups.handles import DataRef, Pending
from distft.workers.reports import named_by_source


def train_supervised(session: Session) -> None:
    """Runs to the last step, from wherever the progress stands."""
    recipe, progress = session.recipe, session.progress
    role, cap = main_role(recipe), recipe.train.max_tokens_per_rank
    group = session.groups[role]
    loss, parameters = recipe.algorithm.loss_of(role)
    names = recipe.data.told_apart("train")
    if progress.step >= progress.total_steps:  # it died between the last step and the export
        return
    position, samples, own = whole_step(session, progress.step + 1, progress.position)
    assert samples is not None, "there is no step left"
    for step in session.steps():
        samples = compared(session, samples)
        if step == 1:
            check_invariants(session, samples)
        waits = is_on_policy(session, step + 1)  # for the policy as this step leaves it
        next_position, following, next_own = (
            (position, None, False) if waits else take_step(session, step + 1, position)
        )
        work = Work()
        first, sources = progress.optimizer_steps, len(names)
        spec = UpdateSpec(
            loss, parameters, first, progress.total_steps, num_sources=sources, **allowance(session, role)
        )
        with session.phase("update"):
            everything = [list(range(len(samples.lengths)))]
            updating = update_pass(group, samples, everything, spec, cap, work).start()
            renewed = is_renewed(session, step)
            ahead = [] if renewed else start_frozen(session, following)
            updated = updating.result()
            if following is not None:
                following = with_frozen(following, ahead)
        note_skipped(session, step, role, updated)
        progress.finish(position=position, num_tokens=samples.num_tokens, optimizer_steps=1)
        if renewed:
            renew_reference(session)
            with session.timer.phase("reference"):
                following = following and with_frozen(following, start_frozen(session, following))
        if waits:
            next_position, following, next_own = whole_step(session, step + 1, position)
        metrics = {
            **named_by_source(updated.steps[0], names),
            **work.metrics(),
            **on_policy_metric(recipe, own),
            "memory/rss_bytes": updated.memory.rss_bytes,
        }
        session.tracker.flight(step, role, updated.traces)
        session.log_step(metrics, samples.lengths)
        evaluate_if_due(session)
        session.checkpoint_if_due()
        if following is not None:
            position, samples, own = next_position, following, next_own


def whole_step(session: Session, step: int, position: int) -> tuple[int, Samples | None, bool]:
    """As ``take_step``, with what frozen models say of the samples where the loss needs it."""
    position, samples, own = take_step(session, step, position)
    with session.timer.phase("teacher" if "teacher" in session.groups else "reference"):
        return position, samples and with_frozen(samples, start_frozen(session, samples)), own


def take_step(session: Session, step: int, position: int) -> tuple[int, Samples | None, bool]:
    """The position behind a step that begins at ``position``; its rows, or the policy's own answers to their prompts,
    or None behind the last step; and whether they are the policy's own."""
    if step > session.progress.total_steps:
        return position, None, False
    start, count = session.visits.take(position)
    own = own_answers(session, step, start, count) if is_on_policy(session, step) else None
    with session.timer.phase("data"):
        found = own or session.data.batch("train", start, count).result()
        session.saw(step, found, start, count)
    return start + count, found, own is not None


def on_policy_metric(recipe: Recipe, own: bool) -> dict[str, float]:
    """Whether the policy answered a step's prompts itself, of the methods in which it may."""
    return {"rollout/on_policy": float(own)} if answers_in_training(recipe) else {}


def start_frozen(session: Session, samples: Samples | None) -> list[Pending[DataRef]]:
    """Starts what frozen models say of the samples, for the algorithms that have some."""
    if samples is None:
        return []
    recipe = session.recipe
    calls = frozen_passes(session.groups, recipe.algorithm, samples, recipe.train.max_tokens_per_rank)
    return [call.start() for call in calls]


def with_frozen(samples: Samples, ahead: Sequence[Pending[DataRef]]) -> Samples:
    """The samples with what those passes leave."""
    return samples.with_data(*(pending.result() for pending in ahead))


def compared(session: Session, samples: Samples) -> Samples:
    """The samples with the step's KL baseline, for the methods that have one."""
    recipe = session.recipe
    if not recipe.algorithm.traits.kl_baseline:
        return samples
    with session.phase("baseline"):
        longest, cap = recipe.data.max_length, recipe.train.max_tokens_per_rank
        return with_baseline(samples, session.groups, session.data, longest, cap)


def check_invariants(session: Session, samples: Samples) -> None:
    """Before the first update, where there is a reference: policy = reference, and so the loss is known (DPO: ln 2)."""
    recipe = session.recipe
    if "reference" not in session.groups and not recipe.algorithm.caches_reference():
        return
    with session.timer.phase("invariants"):
        cap, policy = recipe.train.max_tokens_per_rank, session.groups["policy"]
        found = forward_pass(policy, samples, "logprobs", cap).result()
        difference = session.data.logprob_difference("logprobs", "ref_logprobs", [*samples.data, found]).result()
        check_reference(recipe, difference)
        first = recipe.algorithm.first_loss()
        if first is not None and not meant_to_differ(recipe):
            loss, parameters = recipe.algorithm.loss_of("policy")
            found_loss = evaluate_pass(policy, samples, loss, parameters, cap).result()["loss"]
            # It moves with the difference of two sums over a response at most.
            rounding = first.slope * 2 * max(samples.lengths) * difference.mean
            check_first_loss(recipe.algorithm.name.upper(), found_loss, first.value, rounding + 1e-5)
        session.tracker.event("invariants", reference_difference=asdict(difference))
