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
    """Prints what W&B's client says. Raises UserError for a folder that holds nothing of W&B's, a run that goes on, or
    one of which nothing can be sent, EnvironmentFallsShort where not all arrives: once the others were tried."""
    folders: list[Path] = []
    failed: list[UserError] = []
    for run_dir in run_dirs:
        try:
            folders += _caught_up(run_dir, dry_run=dry_run)
        except UserError as error:
            failed.append(error)
    try:
        _send(folders, dry_run=dry_run)
    except EnvironmentFallsShort as error:
        failed.append(error)
    for one in failed[:-1]:
        print(f"distft: {one}", file=sys.stderr)
    if failed:
        raise failed[-1]


def _caught_up(run_dir: Path, *, dry_run: bool) -> list[Path]:
    """The folders of a run's starts that are left for W&B's client, once what its starts on line lack is sent: that
    comes before what later ones kept offline."""
    found = run_files(run_dir.absolute())
    if not found:
        hint = "tracking.wandb.mode=offline, or online, keeps some; it is a run folder that is named here"
        raise UserError("holds nothing of Weights & Biases", where=str(run_dir), hint=hint)
    online = [path for path in found if not path.parent.name.startswith(_OFFLINE)]
    offline = found[found.index(online[-1]) + 1 :] if online else found  # those before it a start on line has sent
    if online:
        print(catch_up(run_dir, online, min(map(first_step, offline), default=math.inf), dry_run=dry_run))
    return [path.parent for path in offline]


def _send(folders: Sequence[Path], *, dry_run: bool) -> None:
    if not folders:
        return
    words = ["sync", *(["--dry-run"] if dry_run else []), *map(str, folders)]
    done = subprocess.run([sys.executable, "-m", "wandb", *words], stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        hint = "it goes on where it stopped when it is run again; `wandb login`, or WANDB_API_KEY, says who you are"
        raise EnvironmentFallsShort("not all runs were sent: W&B's client says above why", where="sync", hint=hint)
