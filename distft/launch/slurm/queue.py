"""What Slurm says of jobs: asked by id, and cancelled by id."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distft.common.errors import EnvironmentFallsShort
from distft.launch.slurm import checks
from distft.tracking.jobs import FORGOTTEN, JobRecord, JobState, Phase

# Of an allocation in which one may be while asking: they would be taken for options.
_KEPT_SLURM = ("SLURM_CONF", "SLURM_CLUSTERS")
_FORGOTTEN = ("Invalid job id", "not found")  # scontrol's and squeue's words for a job that is no more
# States in which a job still has its turn before it, and those in which it has nodes.
PENDING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING"})
RUNNING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})


class JobForgotten(EnvironmentFallsShort):
    """Slurm answers, and knows of no such job: it has ended, or was taken back, a while ago."""


@dataclass(frozen=True)
class SlurmJob:
    """What Slurm says of a job. ``state`` in its own word; ``exit_code`` None while there is none."""

    state: str
    exit_code: int | None = None
    reason: str = ""
    nodes: tuple[str, ...] = ()


class SlurmJobs:
    """Slurm as a ``JobBackend``. What its jobs print lies in the run's folder."""

    def state(self, record: JobRecord) -> JobState:
        """By Slurm's word; of a job that it has forgotten by the record's."""
        try:
            return _in_our_words(job_state(record.job_id))
        except JobForgotten as error:
            if record.taken_back is not None:
                return JobState("ended", "CANCELLED", "taken back while it waited")
            return JobState("ended", FORGOTTEN, error.what)

    def active(self, records: Sequence[JobRecord]) -> Mapping[str, JobState]:
        """All in one question."""
        found = active_jobs([record.job_id for record in records])
        return {name: _in_our_words(job) for name, job in found.items()}

    def output(self, _record: JobRecord) -> str:
        """Nothing that Slurm keeps."""
        return ""

    def follow(self, _record: JobRecord, _run_dir: Path, _write: Callable[[str], object]) -> int | None:
        """Nothing that Slurm keeps."""
        return None

    def kill(self, record: JobRecord) -> None:
        """By scancel."""
        cancel_job(record.job_id)


def login_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a command of Slurm's is run with: as outside of any allocation."""
    return {name: value for name, value in environment.items() if not name.startswith("SLURM_") or name in _KEPT_SLURM}


def job_state(job_id: str) -> SlurmJob:
    """Asks Slurm, and its accounting where it has forgotten the job. Of an array the task that counts: one that runs,
    else one that waits. Raises JobForgotten, EnvironmentFallsShort.
    """
    try:
        text = _ask("scontrol", "show", "--oneliner", "job", job_id)
    except checks.SlurmRefused as refusal:
        if not any(words in refusal.said for words in _FORGOTTEN):
            raise
        text = ""
    records = [dict(word.split("=", 1) for word in line.split(" ") if "=" in word) for line in text.splitlines()]
    states = [_of_fields(fields) for fields in records if "JobState" in fields]
    return min(states, key=_rank) if states else _from_accounting(job_id)


def active_jobs(job_ids: Sequence[str]) -> dict[str, SlurmJob]:
    """Those of the jobs that wait or run, all in one question. Raises EnvironmentFallsShort."""
    words = ("squeue", "--noheader", "--array", f"--jobs={','.join(job_ids)}", "--format=%i|%T|%r|%N")
    try:
        text = _ask(*words) if job_ids else ""
    except checks.SlurmRefused as refusal:  # said of a single job that is no more
        if not any(words in refusal.said for words in _FORGOTTEN):
            raise
        return {}
    found: dict[str, SlurmJob] = {}
    for line in text.splitlines():
        name, state, reason, nodes = (*line.split("|"), "", "", "")[:4]
        for job_id in job_ids:
            if name == job_id or name.startswith(f"{job_id}_"):
                job = SlurmJob(state, None, "" if reason == "None" else reason, _nodes(nodes))
                found[job_id] = min(found.get(job_id, job), job, key=_rank)
    return found


def cancel_job(job_id: str) -> None:
    """Ends the job, waiting or running. Raises EnvironmentFallsShort."""
    _ask("scancel", job_id)


def _ask(*command: str) -> str:
    return checks.ask(command, login_environment(os.environ))


def _in_our_words(job: SlurmJob) -> JobState:
    name = job.state.split()[0].rstrip("+") if job.state else ""
    phase: Phase = "pending" if name in PENDING else "running" if name in RUNNING else "ended" if name else "unknown"
    return JobState(phase, job.state or "unknown", job.reason or ", ".join(job.nodes), job.exit_code)


def _rank(job: SlurmJob) -> int:
    return 0 if job.state in RUNNING else 1 if job.state in PENDING else 2


def _of_fields(fields: Mapping[str, str]) -> SlurmJob:
    state, reason = fields["JobState"], fields.get("Reason", "")
    return SlurmJob(
        state,
        None if state in PENDING | RUNNING else _exit_code(fields.get("ExitCode", "")),
        "" if reason in ("None", "(null)") else reason,
        _nodes(fields.get("NodeList", "")),
    )


def _from_accounting(job_id: str) -> SlurmJob:
    fields = ("State", "ExitCode", "Reason", "NodeList")
    try:
        text = _ask("sacct", "--noheader", "--parsable2", "--allocations", f"--format={','.join(fields)}",
                    f"--jobs={job_id}")  # fmt: skip
    except EnvironmentFallsShort:
        text = ""
    found = text.splitlines()[-1].split("|") if text.strip() else []
    if len(found) != len(fields):
        raise JobForgotten(f"Slurm does not know job {job_id} (any more)", where="slurm")
    return SlurmJob(found[0].split()[0], _exit_code(found[1]), found[2] if found[2] != "None" else "", _nodes(found[3]))


def _exit_code(text: str) -> int | None:
    """Of ``exit:signal``, the way a shell counts."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    return None if found is None else 128 + int(found[2]) if int(found[2]) else int(found[1])


def _nodes(text: str) -> tuple[str, ...]:
    """Names from Slurm's list; one that abbreviates by brackets is spelled out by Slurm itself."""
    if text in ("", "(null)", "None assigned"):
        return ()
    return tuple(text.split(",")) if "[" not in text else tuple(_ask("scontrol", "show", "hostnames", text).split())
