"""Runs that were kept offline, sent to W&B by its own client, and what it lacks of those that were on line: the starts
of a run are one run there."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.tracking.wandb_catch_up import catch_up
from distft.tracking.wandb_files import first_step, run_files

_OFFLINE: Final = "offline-run-"


def sync(run_dirs: Sequence[Path], *, dry_run: bool = False) -> None:
    """Prints what W&B's client says. Raises UserError for a folder that holds nothing of W&B's, or a run that goes on;
    EnvironmentFallsShort where not all arrives."""
    folders: list[Path] = []
    for run_dir in run_dirs:
        found = run_files(run_dir.absolute())
        if not found:
            hint = "tracking.wandb.mode=offline, or online, keeps some; it is a run folder that is named here"
            raise UserError("holds nothing of Weights & Biases", where=str(run_dir), hint=hint)
        online = [path for path in found if not path.parent.name.startswith(_OFFLINE)]
        offline = found[found.index(online[-1]) + 1 :] if online else found  # those before it a start on line has sent
        if online:
            _catch_up(run_dir, online, offline, dry_run=dry_run)
        folders += [path.parent for path in offline]
    if not folders:
        return
    words = ["sync", *(["--dry-run"] if dry_run else []), *map(str, folders)]
    done = subprocess.run([sys.executable, "-m", "wandb", *words], stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        hint = "it goes on where it stopped when it is run again; `wandb login`, or WANDB_API_KEY, says who you are"
        raise EnvironmentFallsShort("not all runs were sent: W&B's client says above why", where="sync", hint=hint)


def _catch_up(run_dir: Path, online: Sequence[Path], offline: Sequence[Path], *, dry_run: bool) -> None:
    """What the starts on line lack comes before what later ones kept offline, which W&B's client sends."""
    if dry_run:
        print(f"{run_dir}: was on line, what W&B lacks of it would be sent")
        return
    print(catch_up(run_dir, online, min(map(first_step, offline), default=math.inf)))
