"""Which of its evaluations a run is chosen by: the best checkpoint is its result, and too long without a better one
ends it.

The start does not count: what a run is for is to be better than that. Ties go to the earlier step.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace

from distft.checkpoint.layout import published
from distft.checkpoint.manifest import faults
from distft.common.errors import RunFailed, UserError, nearest
from distft.config.roles import is_rl, kept_roles
from distft.controller.progress import Best
from distft.controller.session import Session
from distft.groups.handles import together
from distft.tracking.glossary import better

log = logging.getLogger(__name__)


def note_evaluation(session: Session, metrics: Mapping[str, float]) -> None:
    """Looks at the metrics of an evaluation: a better one asks for a checkpoint of its step, ``evaluation.patience`` of
    them without a better one end the training.

    Raises UserError, at the first evaluation, where ``evaluation.best`` is none of them.
    """
    evaluation, progress = session.recipe.evaluation, session.progress
    if evaluation.best is None:
        return
    if evaluation.best not in metrics:
        close = nearest(evaluation.best, metrics)
        hint = f"did you mean {close}?" if close else f"one of: {', '.join(sorted(metrics))}"
        raise UserError(f"{evaluation.best} is none of this run's held-out metrics", where="evaluation.best", hint=hint)
    value = metrics[evaluation.best]
    session.settle_save(wait=True)  # whether the best one so far is there to go back to
    best = progress.best if progress.best.metric == evaluation.best else Best(metric=evaluation.best)
    if progress.step == 0 or progress.step <= max(best.step, best.seen):
        return
    if math.isfinite(value) and (not best.step or _is_better(evaluation.best, value, best.value)):
        progress.former, progress.best = best, Best(progress.step, value, progress.step, 0, evaluation.best)
        session.coordinator.pinned, session.save_due = progress.step, True
        return
    progress.best = replace(best, seen=progress.step, without=best.without + 1)
    if evaluation.patience and progress.best.without >= evaluation.patience and session.going_on:
        session.tracker.event("stopped_early", step=progress.step, metric=evaluation.best, best=best.value,
                              best_step=best.step)  # fmt: skip
        session.tracker.progress.note(
            f"stopping after step {progress.step}: {evaluation.best} has not been better than {best.value:.4g} "
            f"(step {best.step}) for {progress.best.without} evaluations"
        )
        progress.end_early()


def take_best(session: Session) -> None:
    """The trained weights of the best evaluation back into the groups. Raises RunFailed where its checkpoint is gone or
    damaged."""
    best, progress = session.progress.best, session.progress
    if session.recipe.evaluation.best != best.metric or not best.step or best.step == progress.step:
        return
    path = dict(published(session.coordinator.folder)).get(best.step)
    wrong = "is not there any more" if path is None else "; ".join(faults(path))
    if path is None or wrong:
        raise RunFailed(
            f"the checkpoint of step {best.step}, the best by {session.recipe.evaluation.best}, {wrong}; "
            "evaluation.best=null takes the last step for the result", kind="checkpoint", would_repeat=True,
        )  # fmt: skip
    with session.phase("best", said=f"going back to step {best.step}, the best by {session.recipe.evaluation.best}"):
        together(*(session.groups[role].load(str(path)) for role in kept_roles(session.recipe)))
        session.result_step = best.step
        session.tracker.event("best", step=best.step, metric=session.recipe.evaluation.best, value=best.value)
        if is_rl(session.recipe):
            session.weights.sync(progress.step)


def _is_better(name: str, value: float, than: float) -> bool:
    return value < than if better(name) == "down" else value > than
