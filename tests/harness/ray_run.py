"""Runs through Ray, as ``distft train`` does them: ``python -m tests.harness.ray_run JOBS``.

The command's own composition root runs, with its groups asked once more before they are closed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from distft.config.load import load_recipe
from distft.config.roles import trained_roles
from distft.controller.session import Session
from distft.launch import attempt
from distft.launch.run import train
from tests.harness.jobs import TrainJob, read_jobs
from tests.harness.probes import Tokens, keep_outcome, rollouts_recorded


def main(jobs: Path) -> None:
    """Works the jobs off, one run after the other."""
    for job in read_jobs(jobs):
        assert isinstance(job, TrainJob), "losses alone are measured without Ray"
        with rollouts_recorded() as rollouts, patch.object(attempt, "write_final", exporting(rollouts)):
            train(load_recipe(job.recipe, ()), "local", quiet=True)


def exporting(rollouts: list[Tokens]) -> Callable[[Session, Path], None]:
    """The export of a run, and what the tests want to know beside it."""
    export = attempt.write_final

    def export_and_keep(session: Session, run_dir: Path) -> None:
        export(session, run_dir)
        keep_outcome(session.groups, trained_roles(session.recipe), rollouts, run_dir)

    return export_and_keep


if __name__ == "__main__":
    main(Path(sys.argv[1]))
