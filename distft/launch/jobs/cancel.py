"""``distft cancel``: first a stop with a checkpoint, then, asked again, at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distft.checkpoint.lease import living
from distft.launch.jobs.backends import backend_of
from distft.launch.jobs.known_jobs import known_jobs
from distft.tracking.jobs import KnownJob, add_job
from distft.tracking.run_status import going_on_in, run_status
from distft.tracking.stop_request import ask_to_stop, read_request


def cancel(run_dir: Path, *, now: bool = False) -> str:
    """Asks the run to stop, and takes back every job of it that waits; returns what was done, a line each.

    Twice, or with ``now``: without waiting for the step and its checkpoint. Raises UserError where there is no run,
    DistftError where the scheduler cannot be reached.
    """
    known = known_jobs(run_dir)
    status, held = run_status(run_dir, known), living(going_on_in(run_dir))
    active = [job for job in known if job.state.active or (job.state.phase == "unknown" and held)]
    return stop(run_dir, active, now=now) or f"not running: {status.state}"


def stop(run_dir: Path, jobs: Sequence[KnownJob], *, now: bool = False) -> str:
    """Stops these jobs of the run, and whoever holds its folder, or that of a stage of it; "" where there is nobody.
    Raises DistftError."""
    folder = going_on_in(run_dir)
    held = living(folder)
    owner = held.owner if held else None
    waiting = [job for job in jobs if job.state.phase == "pending"]
    going = [job for job in jobs if job.state.phase != "pending"]
    told = [_take_back(run_dir, job) for job in waiting]
    if owner or going:
        names = [job.record.job_id for job in going]
        former = read_request(run_dir)
        now = now or (former is not None and former.means(owner.token if owner else "", names))
        for each in dict.fromkeys((run_dir, folder)):  # a stage listens in its own
            ask_to_stop(each, tokens=[owner.token] if owner else [], jobs=names, now=now)
        for job in going:
            # What has not begun, or in a folder that we do not see: Ray's signal is a gentle one, too.
            if (now and job.state.active) if job.record.kind == "slurm" else not owner:
                backend_of(job.record).kill(job.record)
        told.append(_asked(folder, str(owner) if owner else ", ".join(map(str, going)), now=now))
    return "\n".join(told)


def _take_back(run_dir: Path, job: KnownJob) -> str:
    backend_of(job.record).kill(job.record)
    add_job(run_dir, replace(job.record, taken_back=time.time()))
    return f"{job} was still waiting and has been taken back"


def _asked(run_dir: Path, who: str, *, now: bool) -> str:
    if not now:
        return f"asked {who} to stop after its step, with a checkpoint; asked again (or with --now) it stops at once"
    saved = run_status(run_dir).checkpoint
    newest = f"the newest checkpoint is that of step {saved.step}" if saved else "no checkpoint"
    return f"asked {who} to stop at once; {newest}"
