"""The node launcher: one a node under one ``srun``; the first node's is the head. Started by slurm/train.sbatch.

    head    folder with the token ─► Ray ─► head.json ─► all nodes ready? ─► driver ─► status.json ─► all leave
    others  wait for head.json    ─► Ray ─► node-<n>.json ready ─────────────────────► status.json ─► leave

Signals come to every launcher; the head's tells the driver, which writes a checkpoint. The others stay until
``status.json`` says how it ended, or Slurm's patience is at its end. No torch, no ray: Ray and the driver are
child processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from distft.common.errors import DistftError, EnvironmentFallsShort
from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.launch.node.detached import run_detached
from distft.launch.node.head import HeadNode
from distft.launch.node.job import Job, job_of, parsed, with_task
from distft.launch.node.part import Heard, NodeLog
from distft.launch.node.worker_node import WorkerNode


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs this node's part; 0 where it is said how the attempt ended, which ``status.json`` then does."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if "--where" in words:
            found = parsed(words)
            load_cluster(found.cluster)
            # The slash keeps a line's end, which a shell would cut off, from being the last character.
            print(f"{Path(load_recipe(found.recipe, with_task(found, os.environ)).output_dir).absolute()}/")
            return 0
        job = job_of(words, os.environ)
        return run_detached(lambda life, listening: _launch(job, Heard(life), listening))
    except DistftError as error:
        print(f"distft: {error}", file=sys.stderr)
        return error.exit_status


def _launch(job: Job, heard: Heard, listening: Callable[[], None]) -> int:
    heard.listen()
    listening()
    try:
        return (HeadNode if job.number == 0 else WorkerNode)(job, NodeLog(job), heard).run()
    except (DistftError, OSError) as error:
        print(f"distft: node {job.name}: {error}", file=sys.stderr)
        return error.exit_status if isinstance(error, DistftError) else EnvironmentFallsShort.exit_status


if __name__ == "__main__":
    sys.exit(main())
