"""Jobs on a Ray cluster that runs already, through the Job Submission SDK. The only file that knows the SDK.

What Ray's own command gets wrong and this does not: a stopped job's exit code is lost (``exit.json`` has it), a
stop kills after 3 s (the job's environment says otherwise, and ``distft cancel`` does not need it), requests have
no deadlines, and a cluster that asks nobody for a token is used without a word.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import stat
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.exceptions
import requests
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.launch.on_ray.cluster import use_tokens
from distft.launch.on_ray.submission import RayJob, number_of, numbered, with_id
from distft.tracking.exit import read_exit
from distft.tracking.jobs import JobRecord, JobState, Phase, add_job

_REQUEST_S = 30.0
_LOST_SIGHT_S = 120.0
_LOOK_EVERY_S = 1.0
_BYTES_PER_S = 500_000  # of the job's output, which comes as a whole: a long one is asked for less often
_STOPPED = re.compile(r"^distft: stopped (after|before) step", re.MULTILINE)
_PHASES: dict[JobStatus, Phase] = {JobStatus.PENDING: "pending", JobStatus.RUNNING: "running"}
_log = logging.getLogger(__name__)


class _Client(JobSubmissionClient):
    """The SDK's client, whose requests have no deadline of their own."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", _REQUEST_S)
        return super()._do_request(method, endpoint, **options)


def submit(job: RayJob) -> str:
    """Submits the job and records it in the run folder; returns its id.

    The id is the run's own: of two that submit the same run at the same time Ray refuses one.

    Raises UserError where the run has a job on the cluster that has not ended, EnvironmentFallsShort where the
    cluster cannot be reached, refuses the token, or asks nobody for one.
    """
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they would tell of every upload
    needs_token = job.cluster.authentication == "token"
    _require_token(needed=needs_token)
    with _asking(job.address):
        client = _Client(job.address)
        if needs_token:
            _require_closed(job.address)
        former = {number_of(job.id_prefix, one.submission_id): one for one in client.list_jobs()}
        number, last = max(former.items(), default=(0, None), key=lambda pair: pair[0])
        if number and last is not None and last.status in _PHASES:
            raise _already(str(last.submission_id), job.run_dir)
        job_id = numbered(job.id_prefix, number + 1)
        with tempfile.TemporaryDirectory(prefix="distft-job-") as folder:
            for name, text in job.files.items():
                Path(folder, name).write_text(text, encoding="utf-8")
            environment = {"working_dir": folder, "env_vars": with_id(job.environment, job_id)}
            try:
                client.submit_job(entrypoint=job.entrypoint, submission_id=job_id, runtime_env=environment,
                                  metadata={"distft_run": str(job.run_dir)})  # fmt: skip
            except RuntimeError as error:
                if "already exists" in str(error):
                    raise _already(job_id, job.run_dir) from None
                raise
    try:
        add_job(job.run_dir, JobRecord("ray", job_id, job.cluster.name, job.address))
    except OSError as error:
        _log.warning("job %s is submitted, but %s cannot be written: %s", job_id, job.run_dir, error)
    return job_id


def follow(address: str, job_id: str, run_dir: Path, write: Callable[[str], object] = sys.stdout.write) -> int:
    """Writes the job's output as it comes, until it ends; returns the exit status of the run.

    Raises EnvironmentFallsShort where the cluster stays silent for two minutes; the job may go on then.
    """
    since, written, seen = time.time(), 0, time.monotonic()
    while True:
        try:
            with _asking(address):
                client = _Client(address)
                details = client.get_job_info(job_id)
                output = client.get_job_logs(job_id)
            seen = time.monotonic()
        except EnvironmentFallsShort as error:
            if time.monotonic() - seen > _LOST_SIGHT_S:
                error.hint = f"job {job_id} may go on without us: distft logs {run_dir} --follow"
                raise
            time.sleep(_LOOK_EVERY_S)
            continue
        write(output[written:])
        written = len(output)
        if details.status.is_terminal():
            return exit_status(details, output, run_dir, since)
        time.sleep(max(_LOOK_EVERY_S, len(output) / _BYTES_PER_S))


def exit_status(details: JobDetails, output: str, run_dir: Path, since: float) -> int:
    """How the run really ended: what its process returned; of a job that was stopped, what the run itself says."""
    if details.driver_exit_code is not None and details.status != JobStatus.STOPPED:
        return int(details.driver_exit_code)
    started = (details.start_time or since * 1000) / 1000
    ended = read_exit(run_dir)
    if ended and float(ended.get("time") or 0) >= started:
        return int(ended.get("exit_status", 1))
    if details.status == JobStatus.SUCCEEDED:
        return 0
    return 75 if _STOPPED.search(output) else 1


class RayJobs:
    """Ray clusters as a ``JobBackend``; each record says where its own is. Every call raises EnvironmentFallsShort
    where that cannot be asked."""

    def state(self, record: JobRecord) -> JobState:
        """By Ray's word."""
        with _asking(record.address):
            details = _connected(record).get_job_info(record.job_id)
        message = [] if details.status == JobStatus.SUCCEEDED else (details.message or "").splitlines()
        return JobState(
            phase=_PHASES.get(details.status, "ended"),
            said=str(details.status.value),
            detail=message[0] if message else "",
            exit_code=details.driver_exit_code,
        )

    def active(self, records: Sequence[JobRecord]) -> Mapping[str, JobState]:
        """Only the newest is asked of: Ray itself refuses a run's second job."""
        newest = records[-1]
        state = self.state(newest)
        return {newest.job_id: state} if state.active else {}

    def output(self, record: JobRecord) -> str:
        """Everything the job printed."""
        with _asking(record.address):
            return str(_connected(record).get_job_logs(record.job_id))

    def follow(self, record: JobRecord, run_dir: Path, write: Callable[[str], object]) -> int | None:
        """See the function of this name."""
        return follow(record.address, record.job_id, run_dir, write)

    def kill(self, record: JobRecord) -> None:
        """SIGTERM, on which a run writes a checkpoint."""
        with _asking(record.address):
            _connected(record).stop_job(record.job_id)


def _connected(record: JobRecord) -> _Client:
    _require_token(needed=False)
    return _Client(record.address)


# ---- tokens and errors


def _require_token(*, needed: bool) -> None:
    """Turns tokens on where there is one. Raises EnvironmentFallsShort where one is needed or cannot be read."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path.home() / ".ray" / "auth_token")
    if os.environ.get("RAY_AUTH_TOKEN"):
        use_tokens()
        return
    if not os.environ.get("RAY_AUTH_TOKEN_PATH") and not Path(path).is_file():
        if needed:
            raise EnvironmentFallsShort(
                "there is no token for the Ray cluster",
                where="RAY_AUTH_TOKEN_PATH",
                hint="set it to the path of the cluster's token file; a cluster without tokens lets anyone on its "
                "network run commands: if that is meant, write `authentication: none` into the cluster file",
            )
        return
    try:
        with open(path, "rb") as file:
            empty, mode = not file.read().strip(), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise EnvironmentFallsShort(f"cannot be read: {error.strerror}", where=path) from None
    if empty:
        raise EnvironmentFallsShort("holds no token", where=path)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        _log.warning("%s can be read by others: chmod 600 it", path)
    use_tokens()


def _require_closed(address: str) -> None:
    """The job server turns away who has no token. Raises EnvironmentFallsShort, OSError."""
    parts = urllib.parse.urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_REQUEST_S)
    try:
        connection.request("GET", "/api/jobs/")
        status = connection.getresponse().status
    except http.client.HTTPException as error:
        raise EnvironmentFallsShort(f"is no job server: {error!r}", where=address) from None
    finally:
        connection.close()
    if status != http.client.UNAUTHORIZED:
        raise EnvironmentFallsShort(
            f"answered {status}, not 401, to a request without a token",
            where=address,
            hint="anyone who reaches it can run commands there: start the cluster with RAY_AUTH_MODE=token, or accept "
            "it with `authentication: none` in the cluster file",
        )


@contextmanager
def _asking(address: str) -> Iterator[None]:
    """What can go wrong with a request, as messages of ours."""
    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        first = str(error).strip().splitlines()[0].rstrip(": ")
        raise EnvironmentFallsShort(
            f"the Ray cluster refuses this token: {first}",
            where=address,
            hint="is RAY_AUTH_TOKEN_PATH the path of this cluster's token?",
        ) from None
    except (ConnectionError, requests.RequestException, TimeoutError, OSError) as error:
        raise EnvironmentFallsShort(
            f"Ray's job server cannot be reached: {(str(error).splitlines() or [type(error).__name__])[0]}",
            where=address,
            hint="is the cluster running, and is this the address of its dashboard (port 8265 by default)?",
        ) from None
    except RuntimeError as error:
        raise EnvironmentFallsShort(f"Ray's job server: {str(error).splitlines()[0][:300]}", where=address) from error


def _already(job_id: str, run_dir: Path) -> UserError:
    return UserError(
        f"this run has a job that has not ended: {job_id}",
        where=str(run_dir),
        hint=f"distft logs {run_dir} --follow; distft cancel {run_dir}",
    )
