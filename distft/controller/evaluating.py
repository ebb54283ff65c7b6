"""When held-out metrics are taken: before the first step, every so often, and after the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distft.common.files import parse_json, write_json
from distft.config.roles import answers_held_out, is_rl, scores_pairs
from distft.controller.choosing import note_evaluation, take_best
from distft.controller.session import Session
from distft.evaluation.held_out import answers, general_loss, loss_metrics, rejected_loss, score_metrics, scored_pairs
from distft.tracking.metrics import BEFORE_AFTER
from distft.workers.reports import Judged


def held_out(session: Session, split: str, *, shown: bool) -> Judged:
    """The held-out metrics of a split, and with ``shown`` some answers to its prompts; empty where the run has no such
    rows."""
    recipe, (count, of) = session.recipe, judged_rows(session, split)
    if not count:
        return Judged({}, ())
    num_shown = recipe.tracking.samples_count if shown and recipe.tracking.samples_every else 0
    with session.phase("evaluation", said=f"evaluation: {count:,} of {of:,} {split} rows"):
        general = general_loss(recipe, session.groups, session.data)
        if is_rl(recipe):
            judged = score_metrics(session.sampler, split, count, num_shown)
            return Judged(judged.metrics | general, judged.samples)
        metrics = loss_metrics(recipe, session.groups, session.data, split, count) | general
        metrics |= rejected_loss(recipe, session.groups, session.data, split, count)
    if num_shown and scores_pairs(recipe):
        pairs = scored_pairs(recipe, session.groups, session.data, split, min(num_shown, count))
        return Judged(metrics, pairs.samples)
    if not answers_held_out(recipe) or not (recipe.evaluation.metrics or num_shown):
        return Judged(metrics, ())
    with session.phase("answers", said=f"answers to {split} prompts"):
        session.weights.sync(session.progress.step)
        judged = answers(session.sampler, split, count, num_shown)
    return Judged(metrics | judged.metrics, judged.samples)


def judged_rows(session: Session, split: str) -> tuple[int, int]:
    """How many rows of a split are judged, a sample over its sources, and how many it has."""
    of = session.num_units.get(split, 0)
    return min(session.recipe.evaluation.max_samples, of), of


def evaluate_if_due(session: Session) -> None:
    """A line of split ``eval`` every ``evaluation.every`` steps."""
    every = session.recipe.evaluation.every
    if every and session.progress.step % every == 0:
        log_evaluation(session)


def log_evaluation(session: Session) -> None:
    """The eval split's metrics at the current step, if the run has such rows and they are not known yet."""
    step = session.progress.step
    if session.evaluated_at == step:
        return
    session.evaluating = True
    judged = held_out(session, "eval", shown=True)
    session.evaluated_at, session.evaluating = step, False
    if judged.metrics:
        session.tracker.log(step, judged.metrics, split="eval")
        note_evaluation(session, judged.metrics)
    session.tracker.samples(step, judged.samples, split="eval")


def test_split(session: Session) -> str:
    """The rows of the before/after table: ``test``, or ``eval`` where there is none."""
    return "test" if session.num_units.get("test") else "eval"


def before(session: Session) -> None:
    """The table's first column, kept with the progress so that a resumed run still has it."""
    log_evaluation(session)
    session.progress.before = _judged(session)


def after(session: Session, run_dir: Path) -> dict[str, dict[str, float]]:
    """The table: held-out metrics before and after, also in ``RUN/before_after.json``."""
    log_evaluation(session)
    take_best(session)
    found = _judged(session)
    first = session.progress.before
    table = {name: {"before": first[name], "after": found[name]} for name in found if name in first}
    count, of = judged_rows(session, test_split(session))
    step = session.result_step or session.progress.step
    content = {
        "format": 1, "split": test_split(session), "rows": count, "rows_in_all": of, "step": step, "metrics": table,
    }  # fmt: skip
    write_json(run_dir / BEFORE_AFTER, content)
    return table


def _judged(session: Session) -> dict[str, float]:
    """The table's rows at the current weights; of a run without ``eval`` some answers are shown, too."""
    session.evaluating = True
    judged = held_out(session, test_split(session), shown=not session.num_units.get("eval"))
    session.evaluating = False
    session.tracker.samples(session.progress.step, judged.samples, split="eval")
    return judged.metrics


def read_table(run_dir: Path) -> dict[str, dict[str, float]]:
    """The table of a run that has ended; empty where it has none that can be read."""
    metrics = _kept_table(run_dir).get("metrics")
    return {name: row for name, row in metrics.items() if _is_row(row)} if isinstance(metrics, dict) else {}


def said_rows(run_dir: Path) -> str:
    """What the table of a run was measured on: ``256 of 9,000 test rows``; empty where that cannot be read."""
    found = _kept_table(run_dir)
    try:
        return f"{found['rows']:,} of {found['rows_in_all']:,} {found['split']} rows"
    except (KeyError, ValueError, TypeError):
        return ""


def _kept_table(run_dir: Path) -> dict[str, Any]:
    try:
        found = parse_json((run_dir / BEFORE_AFTER).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(side), int | float) for side in ("before", "after"))
