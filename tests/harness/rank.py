"""One rank of the harness: ``python -m tests.harness.rank JOBS`` alone, or as many as torchrun starts.

JOBS is a JSON file, see ``tests.harness.jobs``. All roles live in every process.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.distributed as dist

from distft.common.errors import DistftError
from distft.config.load import load_recipe
from distft.config.roles import trained_roles
from distft.engine import process_group
from distft.launch.prepare import with_labels
from tests.harness import spmd
from tests.harness.jobs import LossesJob, TrainJob, read_jobs
from tests.harness.loss_layouts import measure_losses
from tests.harness.probes import (
    keep_outcome,
    other_reference_weights,
    rollouts_recorded,
    stale_generator,
    stale_layer,
    wrong_mask,
)


def main(jobs: Path) -> None:
    """Joins the other ranks and works the jobs off."""
    torch.set_num_threads(1)
    rank, num_ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks > 1:  # torchrun's own store is where the ranks meet
        store = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    else:
        hosted = process_group.host_store("127.0.0.1")
        store = ("127.0.0.1", int(hosted.port))
    process_group.join(rank, num_ranks, store, timeout_s=300)
    for job in read_jobs(jobs):
        if isinstance(job, LossesJob):
            measure_losses(job, rank, num_ranks, store)
        else:
            run(job, rank, num_ranks, store)
        dist.barrier()
    process_group.leave()


def run(job: TrainJob, rank: int, num_ranks: int, store: tuple[str, int]) -> None:
    """A run from beginning to end, or to its error, which is written down."""
    recipe, folder = with_labels(load_recipe(job.recipe, ())), Path(job.folder)
    with ExitStack() as stack:
        rollouts = stack.enter_context(rollouts_recorded())
        if job.broken == "stale generator":
            stack.enter_context(stale_generator())
        if job.broken == "stale layer":
            stack.enter_context(stale_layer())
        if job.broken == "other reference weights":
            stack.enter_context(other_reference_weights(spmd, job.other_weights))
        if job.broken == "wrong mask" and rank == 1:
            stack.enter_context(wrong_mask(step=7))
        session = spmd.build_session(recipe, folder, rank=rank, num_ranks=num_ranks, store=store)
        stack.enter_context(session.tracker)
        try:
            spmd.train(session)
        except DistftError as error:
            if rank == 0:
                (folder / "error.txt").write_text(f"{type(error).__name__}: {error}")
            return
        keep_outcome(session.groups, trained_roles(recipe), rollouts, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # As Ray ends our workers: threads of torch have been seen to abort an interpreter that ends, all work done.
    os._exit(0)
