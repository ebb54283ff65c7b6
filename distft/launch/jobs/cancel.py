"""``distft cancel``: first a stop with a checkpoint, then, asked again, at once."""

from __future__ import annotations

from pathlib import Path

from distft.checkpoint.lease import living
from distft.launch.jobs.job_record import read_jobs
from distft.launch.jobs.job_state import job_state, kill_job
from distft.launch.jobs.run_status import run_status
from distft.launch.jobs.stop_request import ask_to_stop, read_request


def cancel(run_dir: Path, *, now: bool = False) -> str:
    """Asks the run to stop; returns what was done, as a line for the user.

    Twice, or with ``now``: without waiting for the step and its checkpoint. A job that is still waiting is taken
    back. Raises UserError where there is no run, DistftError where the scheduler cannot be reached.
    """
    jobs = read_jobs(run_dir)
    job, state = (jobs[-1], job_state(jobs[-1])) if jobs else (None, None)
    status = run_status(run_dir, state)
    held = living(run_dir)
    token = held.owner.token if held and held.owner else ""
    active = job is not None and state is not None and (state.active or (state.phase == "unknown" and bool(token)))
    if not token and not active:
        return f"not running: {status.state}"
    if not token and job is not None and state is not None and state.phase == "pending":
        kill_job(job)
        return f"{job.kind} job {job.job_id} was still waiting and has been taken back"
    former = read_request(run_dir)
    now = now or (former is not None and former.means(token, job.job_id if job else ""))
    ask_to_stop(run_dir, tokens=[token] if token else [], jobs=[job.job_id] if job and active else [], now=now)
    who = str(held.owner) if held and held.owner else f"{job.kind} job {job.job_id}" if job else "the run"
    if job is not None and active and job.kind == "ray" and not token:
        kill_job(job)  # it has not begun, or in a folder that we do not see; Ray's signal is a gentle one, too
    if not now:
        return f"asked {who} to stop after its step, with a checkpoint; asked again (or with --now) it stops at once"
    if job is not None and state is not None and state.active and job.kind == "slurm":
        kill_job(job)
    newest = f"the newest checkpoint is that of step {status.checkpoint.step}" if status.checkpoint else "no checkpoint"
    return f"asked {who} to stop at once; {newest}"
