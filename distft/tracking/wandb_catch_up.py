"""What W&B's server lacks of a run that was on line, sent from the run's own ledgers by one more start of it, as each
start sends what those before it did not. W&B's own client would add those that are there once more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.tracking.exit import read_exit
from distft.tracking.metrics import RECIPE
from distft.tracking.run_status import holds_run, run_status
from distft.tracking.wandb_backend import WandbBackend, WandbOptions
from distft.tracking.wandb_files import records

_PATIENCE_S: Final = 600.0
_GOING_ON: Final = ("starting", "running", "stopping")


def catch_up(run_dir: Path, files: Sequence[Path], before: float, *, dry_run: bool) -> str:
    """Sends what is missing of the steps before one, or nothing yet; what there is to say of it. ``files``: W&B's, of
    its starts on line, oldest first.

    Raises UserError for a run that goes on, or of which nothing can be sent; EnvironmentFallsShort where not all
    arrives.
    """
    where = str(run_dir)
    if holds_run(run_dir) and run_status(run_dir).state in _GOING_ON:
        raise UserError("goes on, and sends for itself", where=where, hint="distft status says when it has ended")
    options = _options(files)
    if options is None:
        what, hint = "W&B's files say nothing of the run: nothing is sent of it", "all its steps are in metrics.jsonl"
        raise UserError(what, where=where, hint=hint)
    if options.mode == "shared":
        what = "was shared, and W&B does not say which steps of such a run it has: nothing is sent of it"
        raise UserError(what, where=where, hint="all its steps are in metrics.jsonl")
    if dry_run:
        return f"{where}: was on line, what W&B lacks of it would be sent"
    with tempfile.TemporaryDirectory(prefix="distft-wandb-") as folder:
        backend = WandbBackend(
            Path(folder), options, finish_timeout_s=_PATIENCE_S, queue_size=0, before=before, catches_up=run_dir,
        )  # fmt: skip
        for kind, path in (("recipe", RECIPE), ("model", "final"), ("report", "report.html")):
            if (run_dir / path).exists():
                backend.keep(kind, run_dir / path)
        backend.close(int((read_exit(run_dir) or {}).get("exit_status") or 0), 2 * _PATIENCE_S)
    if not backend.arrived:
        hint = "the same command goes on; `wandb login`, or WANDB_API_KEY, says who you are"
        raise EnvironmentFallsShort("not all was sent to W&B: it says above why", where=where, hint=hint)
    return f"{where}: W&B has all {'of it' if before == float('inf') else f'before step {before:g}'}"


def _options(files: Sequence[Path]) -> WandbOptions | None:
    """How the run was begun there."""
    for record in chain.from_iterable(map(records, files)):
        if record.get("type") == "run":
            run = record["run"]
            config = {key: value for key, value in run.get("config", {}).get("update", {}).items() if key != "_wandb"}
            shared = run.get("telemetry", {}).get("feature", {}).get("shared_mode")
            project, name, job_type, group = (
                str(run.get(key)) for key in ("project", "display_name", "job_type", "run_group")
            )
            return WandbOptions(
                "shared" if shared else "online", project, name, job_type, group, run.get("entity"),
                tuple(run.get("tags", ())), config, str(run["run_id"]),
            )  # fmt: skip
    return None
