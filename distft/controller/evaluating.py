"""When held-out metrics are taken: before the first step, every so often, and after the last."""

from __future__ import annotations

import json
from pathlib import Path

from distft.common.files import write_json
from distft.config.roles import is_rl
from distft.controller.session import Session
from distft.evaluation.held_out import loss_metrics, score_metrics
from distft.tracking.metrics import BEFORE_AFTER


def held_out_metrics(session: Session, split: str) -> dict[str, float]:
    """The held-out metrics of a split; empty where the run has no such rows."""
    recipe, (count, of) = session.recipe, judged_rows(session, split)
    if not count:
        return {}
    with session.phase("evaluation", said=f"evaluation: {count:,} of {of:,} {split} rows"):
        if is_rl(recipe):
            return score_metrics(session.sampler, split, count)
        return loss_metrics(recipe, session.groups, session.data, split, count)


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
    """The eval split's metrics at the current step, if the run has such rows."""
    metrics = held_out_metrics(session, "eval")
    if metrics:
        session.tracker.log(session.progress.step, metrics, split="eval")


def test_split(session: Session) -> str:
    """The rows of the before/after table: ``test``, or ``eval`` where there is none."""
    return "test" if session.num_units.get("test") else "eval"


def before(session: Session) -> None:
    """The table's first column, kept with the progress so that a resumed run still has it."""
    log_evaluation(session)
    session.progress.before = held_out_metrics(session, test_split(session))


def after(session: Session, run_dir: Path) -> dict[str, dict[str, float]]:
    """The table: held-out metrics before and after, also in ``RUN/before_after.json``."""
    log_evaluation(session)
    found = held_out_metrics(session, test_split(session))
    first = session.progress.before
    table = {name: {"before": first[name], "after": found[name]} for name in found if name in first}
    count, of = judged_rows(session, test_split(session))
    content = {
        "format": 1, "split": test_split(session), "rows": count, "rows_in_all": of, "step": session.progress.step,
        "metrics": table,
    }  # fmt: skip
    write_json(run_dir / BEFORE_AFTER, content)
    return table


def read_table(run_dir: Path) -> dict[str, dict[str, float]]:
    """The table of a run that has ended; empty where it has none."""
    path = run_dir / BEFORE_AFTER
    return dict(json.loads(path.read_text())["metrics"]) if path.is_file() else {}


def said_rows(run_dir: Path) -> str:
    """What the table of a run was measured on: ``256 of 9,000 test rows``; empty where it has none."""
    path = run_dir / BEFORE_AFTER
    found = json.loads(path.read_text()) if path.is_file() else {}
    return f"{found['rows']:,} of {found['rows_in_all']:,} {found['split']} rows" if "rows" in found else ""
