"""What ``distft status`` shows of several runs: a line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from distft.common.errors import UserError
from distft.tracking.progress import duration, headlines
from distft.tracking.run_status import RunStatus, holds_run, runs_inside
from distft.verbs.status_table import COLOURS

ACTIVE = ("waiting", "starting", "running", "stopping")
_COLUMNS = ("run", "state", "step", "last step", "left", "saved", "job")


def run_folders(said: Sequence[Path]) -> list[Path]:
    """The run folders that are meant: each as it is, and of a folder without a run of its own, such as a pipeline's,
    those in it, behind the pipeline's own job where it has one. A folder that holds none stays, for whoever looks into
    it to say so."""
    found: list[Path] = []
    for folder in map(Path.absolute, said):
        inside = runs_inside(folder)
        found += [folder, *inside] if holds_run(folder) or not inside else inside
    return list(dict.fromkeys(found))


def overview(statuses: Sequence[RunStatus]) -> Table:
    """The table: what is the same for all of a run's numbers is left to ``distft status`` of it alone."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in _COLUMNS:
        table.add_column(name, overflow="fold" if name in ("run", "last step") else "ellipsis")
    here = Path.cwd()
    for status in statuses:
        path = Path(status.run_dir)
        numbers = {name: value for name, value in (status.metrics or {}).items() if isinstance(value, int | float)}
        table.add_row(
            str(path.relative_to(here) if path.is_relative_to(here) else path),
            Text(status.state, style=COLOURS.get(status.state, "")),
            f"{status.step}/{status.total_steps}" if status.total_steps else str(status.step or ""),
            "  ".join(headlines(numbers)),
            duration(status.eta_s) if status.eta_s else "",
            str(status.checkpoint.step) if status.checkpoint else "",
            " ".join(f"{job.record.kind} {job.record.job_id}" for job in status.known[-1:]),
        )
    return table


def is_over(statuses: Sequence[RunStatus]) -> bool:
    """Whether none of the runs waits or goes on."""
    return not any(status.state in ACTIVE for status in statuses)


def every(text: str) -> float:
    """Seconds between two looks. Raises UserError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise UserError("is no number of seconds", where=f"--watch {text}", hint="--watch 10")
    return seconds
