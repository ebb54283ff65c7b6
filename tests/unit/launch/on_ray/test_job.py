"""The Job Submission SDK: what comes back, and what is said where it does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions
import requests
from ray.job_submission import JobDetails, JobStatus, JobType

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.cluster import load_cluster
from distft.launch.on_ray import job as ray_job
from distft.launch.on_ray.submission import RayJob
from distft.tracking.exit import Ending, write_exit
from distft.tracking.jobs import JobRecord, read_jobs
from distft.tracking.stop_request import JOB
from tests.harness.http_server import serving

ADDRESS = "http://head:8265"


class Server:
    """A job server, and the client to it."""

    def __init__(self) -> None:
        self.jobs: list[JobDetails] = []
        self.output = ""
        self.submitted: dict[str, Any] = {}
        self.refusal: Exception | None = None
        self.sent: list[str] = []

    def __call__(self, address: str) -> Server:
        assert address == ADDRESS
        return self

    def list_jobs(self) -> list[JobDetails]:
        return self.jobs

    def submit_job(self, **words: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.submitted = words
        self.sent = sorted(path.name for path in Path(words["runtime_env"]["working_dir"]).iterdir())

    def get_job_info(self, job_id: str) -> JobDetails:
        if self.refusal is not None:
            raise self.refusal
        return next(job for job in self.jobs if job.submission_id == job_id)

    def get_job_logs(self, _: str) -> str:
        return self.output


def details(job_id: str, status: JobStatus, **fields: Any) -> JobDetails:
    return JobDetails(type=JobType.SUBMISSION, submission_id=job_id, status=status, entrypoint="x", **fields)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(ray_job, "_Client", made)
    monkeypatch.setattr(ray_job, "_require_closed", lambda _: None)
    monkeypatch.setattr(ray_job, "use_tokens", lambda: None)
    monkeypatch.setattr(ray_job, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    return made


@pytest.fixture
def job(tmp_path: Path) -> RayJob:
    return RayJob("distft-x-1234", ADDRESS, "exec python", {"A": "b"}, (), {"recipe.yaml": "r", "cluster.yaml": "c"},
                  load_cluster("ray-existing"), tmp_path / "run")  # fmt: skip


def test_a_job_is_submitted_and_recorded(server: Server, job: RayJob) -> None:
    assert ray_job.submit(job) == "distft-x-1234-1"
    assert server.sent == ["cluster.yaml", "recipe.yaml"]
    assert server.submitted["submission_id"] == "distft-x-1234-1"
    assert server.submitted["runtime_env"]["env_vars"] == {"A": "b", JOB: "distft-x-1234-1"}
    (record,) = read_jobs(job.run_dir)
    assert (record.kind, record.job_id, record.cluster, record.address) == (
        "ray",
        "distft-x-1234-1",
        "ray-existing",
        ADDRESS,
    )


def test_the_next_job_of_a_run_has_the_next_number(server: Server, job: RayJob) -> None:
    server.jobs = [details("distft-x-1234-9", JobStatus.FAILED), details("distft-x-1234-10", JobStatus.STOPPED),
                   details("distft-y-99-77", JobStatus.RUNNING)]  # fmt: skip
    assert ray_job.submit(job) == "distft-x-1234-11"


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.RUNNING])
def test_a_run_has_one_job_at_a_time(server: Server, job: RayJob, status: JobStatus) -> None:
    server.jobs = [details("distft-x-1234-3", status)]
    with pytest.raises(UserError, match="has a job that has not ended: distft-x-1234-3"):
        ray_job.submit(job)
    assert not server.submitted


def test_of_two_at_the_same_time_ray_refuses_one(server: Server, job: RayJob) -> None:
    server.refusal = RuntimeError("Request failed with status code 500: Job with submission_id ... already exists.")
    with pytest.raises(UserError, match="has a job that has not ended: distft-x-1234-1"):
        ray_job.submit(job)
    assert read_jobs(job.run_dir) == []


def test_the_output_is_followed_and_the_drivers_status_returned(server: Server, tmp_path: Path) -> None:
    server.jobs = [details("j", JobStatus.RUNNING)]
    server.output = "one\n"
    written: list[str] = []
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(ray_job.follow(ADDRESS, "j", tmp_path, written.append)))
    thread.start()
    time.sleep(0.1)
    server.output = "one\ntwo\n"
    time.sleep(0.1)
    server.jobs = [details("j", JobStatus.FAILED, driver_exit_code=75)]
    thread.join(5)
    assert statuses == [75]
    assert "".join(written) == "one\ntwo\n"


def test_a_server_that_is_away_for_a_moment_is_waited_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.jobs = [details("j", JobStatus.SUCCEEDED, driver_exit_code=0)]
    server.refusal = requests.ConnectionError("refused")
    threading.Timer(0.2, lambda: setattr(server, "refusal", None)).start()
    assert ray_job.follow(ADDRESS, "j", tmp_path, lambda _: None) == 0
    monkeypatch.setattr(ray_job, "_LOST_SIGHT_S", 0.1)
    server.refusal = requests.ConnectionError("refused")
    with pytest.raises(EnvironmentFallsShort, match="may go on without us"):
        ray_job.follow(ADDRESS, "j", tmp_path, lambda _: None)


@pytest.mark.parametrize(
    ("status", "code", "output", "written", "expected"),
    [
        (JobStatus.SUCCEEDED, 0, "", None, 0),
        (JobStatus.FAILED, 2, "", None, 2),
        (JobStatus.FAILED, None, "", None, 1),  # its supervisor died
        (JobStatus.STOPPED, None, "", None, 1),  # killed before it could say anything
        (JobStatus.STOPPED, 0, "", 75, 75),  # Ray counts a job that was stopped as well
        (JobStatus.STOPPED, None, "x\ndistft: stopped after step 7 with a checkpoint: ...\n", None, 75),
    ],
)
def test_how_a_run_really_ended(
    tmp_path: Path, status: JobStatus, code: int | None, output: str, written: int | None, expected: int
) -> None:
    if written is not None:
        write_exit(tmp_path, Ending("stopped", written), 1)
    found = details("j", status, driver_exit_code=code, start_time=int(time.time() * 1000) - 1000)
    assert ray_job.exit_status(found, output, tmp_path, time.time()) == expected


def test_an_ending_of_the_job_before_does_not_count(tmp_path: Path) -> None:
    write_exit(tmp_path, Ending("stopped", 75), 1)
    found = details("j", JobStatus.STOPPED, start_time=int(time.time() * 1000) + 60_000)
    assert ray_job.exit_status(found, "", tmp_path, time.time()) == 1


def test_states(server: Server) -> None:
    record = JobRecord("ray", "j", "c", ADDRESS)
    server.jobs = [details("j", JobStatus.FAILED, driver_exit_code=3, message="first\nsecond")]
    state = ray_job.RayJobs().state(record)
    assert (state.phase, state.said, state.detail, state.exit_code) == ("ended", "FAILED", "first", 3)
    server.jobs = [details("j", JobStatus.RUNNING, message="running")]
    assert ray_job.RayJobs().state(record).phase == "running"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ray.exceptions.AuthenticationError("Authentication failed: no\n\nmore"), "refuses this token: Authentic"),
        (requests.ReadTimeout("timed out"), "cannot be reached: timed out"),
        (ConnectionError("Failed to connect"), "cannot be reached: Failed to connect"),
        (RuntimeError("Request failed with status code 500: x\ny"), "Ray's job server: Request failed with"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_message(server: Server, error: Exception, said: str) -> None:
    server.refusal = error
    with pytest.raises(EnvironmentFallsShort, match=said):
        ray_job.RayJobs().state(JobRecord("ray", "j", "c", ADDRESS))


# ---- tokens


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray_job, "use_tokens", lambda: None)
    return tmp_path


def test_a_token_is_needed(bare: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    ray_job._require_token(needed=False)
    with pytest.raises(EnvironmentFallsShort, match="there is no token for the Ray cluster"):
        ray_job._require_token(needed=True)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(bare / "none"))
    with pytest.raises(EnvironmentFallsShort, match="cannot be read: No such file"):
        ray_job._require_token(needed=True)
    (bare / "none").touch(mode=0o600)
    with pytest.raises(EnvironmentFallsShort, match="holds no token"):
        ray_job._require_token(needed=True)
    (bare / "none").write_text("0" * 64)
    ray_job._require_token(needed=True)
    assert not caplog.messages
    (bare / "none").chmod(0o644)
    ray_job._require_token(needed=True)
    assert "can be read by others" in caplog.text


class Careless(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


@pytest.fixture
def open_server() -> Iterator[str]:
    with serving(Careless) as url:
        yield url


def test_a_job_server_that_asks_nobody_is_refused(open_server: str) -> None:
    with pytest.raises(EnvironmentFallsShort, match="answered 200, not 401"):
        ray_job._require_closed(open_server)


def test_requests_have_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def request(*_: Any, **options: Any) -> requests.Response:
        seen.update(options)
        raise requests.ReadTimeout("too late")

    monkeypatch.setattr(requests, "request", request)
    with pytest.raises(EnvironmentFallsShort, match="cannot be reached"):
        ray_job.RayJobs().state(JobRecord("ray", "j", "c", "http://127.0.0.1:9"))
    assert seen["timeout"] == 30.0
