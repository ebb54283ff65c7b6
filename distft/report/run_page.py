"""``RUN/report.html``: a run folder as one page."""

from __future__ import annotations

import logging
from pathlib import Path

from distft.common.files import write_atomic
from distft.evaluation.bootstrap import LEVEL
from distft.report import sections
from distft.report.charts import Source, charts
from distft.report.evaluation_page import evaluation_page
from distft.report.page import render
from distft.report.run_data import RunData, read_run
from distft.report.verdict import changes, headline, signed, trained, verdict
from distft.tracking.metrics import EVALUATION

REPORT = "report.html"
_LINES_IN_PASSING = 5_000  # of metrics.jsonl: what a part of a second reads
log = logging.getLogger(__name__)


def write_report(run_dir: Path, out: Path | None = None, max_lines: int | None = None) -> Path:
    """Writes the page, to ``RUN/report.html`` unless said otherwise, and returns its path. Raises UserError where no
    run, or evaluation, lies in the folder, OSError where it cannot be written.
    """
    path = out or run_dir / REPORT
    evaluated = (run_dir / EVALUATION).is_file()
    write_atomic(path, evaluation_page(run_dir) if evaluated else run_page(read_run(run_dir, max_lines)))
    return path


def report_in_passing(run_dir: Path) -> None:
    """At the end of a run, however it ended: what goes wrong here is logged and nothing else, as the run is over."""
    try:
        write_report(run_dir, max_lines=_LINES_IN_PASSING)
    except Exception as error:
        log.warning("%s could not be written (%s): distft report %s tries again", REPORT, error, run_dir)
        log.info("why there is no report", exc_info=True)


def run_page(run: RunData) -> bytes:
    """The page of a run."""
    first, others = charts([Source("", run.ledger)])
    return render(
        "run.html",
        title=run.name,
        run=run,
        kind=run.kind,
        trained=trained(run),
        verdict=verdict(run),
        cause=sections.cause(run),
        mood=_mood(run),
        changes=changes(run),
        signed=signed,
        level=f"{LEVEL:.0%}",
        first=first,
        others=others,
        samples=sections.pairs_of_samples(run),
        phases=sections.time_by_phase(run),
        start_up=sections.start_up(run),
        memory=sections.memory(run),
        loads=sections.loads(run),
        alarms=sections.alarms(run),
        events=sections.events(run),
        data=sections.data_rows(run),
        environment=sections.environment_rows(run),
        commands=sections.commands(run),
    )


def _mood(run: RunData) -> str:
    """The colour of the verdict: good, bad or plain."""
    if run.status.state in ("failed", "lost"):
        return "bad"
    found = headline(run)
    return {"better": "good", "worse": "bad"}.get(found.sure if found else "", "plain")
