"""Runs that were kept offline, sent to W&B by its own client: the starts of a run are one run there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.tracking.wandb_files import run_files


def sync(run_dirs: Sequence[Path], *, dry_run: bool = False) -> None:
    """Prints what W&B's client says. Raises UserError for a folder that holds nothing of W&B's; EnvironmentFallsShort
    where not all arrives."""
    folders: list[Path] = []
    for run_dir in run_dirs:
        found = [path.parent for path in run_files(run_dir.absolute())]
        if not found:
            hint = "tracking.wandb.mode=offline, or online, keeps some; it is a run folder that is named here"
            raise UserError("holds nothing of Weights & Biases", where=str(run_dir), hint=hint)
        folders += [path for path in found if path.name.startswith("offline-run-")]
    if not folders:
        print("no run was kept offline: one online sends as it goes, and all that it logged is in metrics.jsonl")
        return
    words = ["sync", *(["--dry-run"] if dry_run else []), *map(str, folders)]
    done = subprocess.run([sys.executable, "-m", "wandb", *words], stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        hint = "it goes on where it stopped when it is run again; `wandb login`, or WANDB_API_KEY, says who you are"
        raise EnvironmentFallsShort("not all runs were sent: W&B's client says above why", where="sync", hint=hint)
