"""Jobs on a Ray cluster that somebody else started: two machines, tokens on, submitted from a third."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distft.tracking.jobs import JobRecord, read_jobs
from tests.cluster.bed import ROOT, Nodes
from tests.cluster.ray_bed import RayBed
from tests.e2e.conftest import SFT, checkpoints, events, exit_record, lines
from tests.harness.pipelines import LONG_SECOND, STAGES, three_stages

pytestmark = pytest.mark.cluster

RECIPE = SFT[1:]
DEADLINE_S = 240.0
PIPELINE_S = 900.0


@pytest.fixture(scope="module")
def ray(nodes: Nodes) -> Iterator[RayBed]:
    """Ray on both machines."""
    with RayBed(nodes) as made:
        yield made


@pytest.fixture
def outside(ray: RayBed) -> dict[str, str]:
    """What a person on a third machine has set: where the job server is, and the path of the token."""
    return {
        name: value for name, value in ray.env.items() if name != "RAY_ADDRESS"
    } | {"RAY_API_SERVER_ADDRESS": ray.job_address, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}  # fmt: skip


def distft(*words: str | Path, env: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "distft.cli", *map(str, words)],
        cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], timeout_s: float = DEADLINE_S) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=timeout_s)
    return process.returncode, output, errors


def steps(run: Path) -> list[dict[str, Any]]:
    """The lines of training steps so far."""
    return [line for line in lines(run, "metrics") if line["split"] == "train"]


def until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    limit = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.1)
    return found


def folder_of(shared_folder: Path, name: str) -> Path:
    folder = shared_folder / name
    folder.mkdir()
    return folder


@pytest.mark.ray
def test_a_job_runs_over_both_nodes_and_its_status_comes_back(
    outside: dict[str, str], shared_folder: Path, nodes: Nodes
) -> None:
    folder = folder_of(shared_folder, "submitted")
    submit = ("submit", "ray", *RECIPE, "--cluster", "ray-existing", "output_dir=run")
    status, output, errors = ended(distft(*submit, env=outside, folder=folder))
    assert status == 0, output + errors
    job_id = output.splitlines()[0]
    assert "step 6/6" in output
    assert "sft-tiny: done, the model is in" in output

    run = folder / "run"
    record = read_jobs(run)[-1]
    assert (record.kind, record.job_id, record.cluster, record.address) == (
        "ray", job_id, "ray-existing", outside["RAY_API_SERVER_ADDRESS"],
    )  # fmt: skip
    ready = next(event for event in events(run, "group_ready") if event["role"] == "policy")
    assert sorted(worker["node"] for worker in ready["workers"]) == sorted(node.name for node in nodes)
    assert checkpoints(run)

    told = json.loads(ended(distft("status", run, "--json", env=outside, folder=folder))[1])
    assert (told["state"], told["step"], told["total_steps"]) == ("done", 6, 6)
    assert told["job"]["said"] == "SUCCEEDED"
    again = ended(distft(*submit, env=outside, folder=folder))
    assert again[0] == 0
    assert "already finished" in again[1]


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_is_submitted_once_stops_on_request_and_goes_on(outside: dict[str, str], shared_folder: Path) -> None:
    folder = folder_of(shared_folder, "cancelled")
    run = folder / "run"
    submit = ("submit", "ray", *RECIPE, "--cluster", "ray-existing", "output_dir=run")
    many = distft(*submit, "train.steps=100000", "checkpoint.every=50000", env=outside, folder=folder)
    until(lambda: steps(run), many)

    twice = ended(distft(*submit, "train.steps=100000", "--json", env=outside, folder=folder))
    assert twice[0] == 2, twice
    assert "another process writes this run" in twice[2] or "has a job that has not ended" in twice[2]

    told = json.loads(ended(distft("status", "run", "--json", env=outside, folder=folder))[1])
    assert (told["state"], told["job"]["phase"], told["total_steps"]) == ("running", "running", 100000)
    following = distft("logs", "run", "--follow", env=outside, folder=folder)
    status, output, errors = ended(distft("cancel", "run", env=outside, folder=folder))
    assert status == 0, errors
    assert "to stop after its step, with a checkpoint" in output

    status, output, errors = ended(many)
    assert status == 75, output + errors
    assert ended(following)[0] == 75
    record = exit_record(run)
    assert (record["class"], record["exit_status"]) == ("cancelled", 75)
    step = checkpoints(run)[-1]
    assert f"stopped after step {step} with a checkpoint" in record["cause"]
    assert not (run / "stop.json").exists()

    status, output, errors = ended(distft(*submit, f"train.steps={step + 2}", env=outside, folder=folder))
    assert status == 0, output + errors
    assert [event["step"] for event in events(run, "resume")] == [step]
    jobs = [record.job_id for record in read_jobs(run)]
    assert [job.rpartition("-")[2] for job in jobs] == ["1", "2"]
    assert "not running: done" in ended(distft("cancel", "run", env=outside, folder=folder))[1]


@pytest.mark.slow
@pytest.mark.ray
def test_a_running_job_is_replaced_by_one_that_goes_on(outside: dict[str, str], shared_folder: Path) -> None:
    folder = folder_of(shared_folder, "replaced")
    run = folder / "run"
    submit = ("submit", "ray", *RECIPE, "--cluster", "ray-existing", "output_dir=run", "checkpoint.every=50000")
    first = distft(*submit, "train.steps=100000", env=outside, folder=folder)
    until(lambda: steps(run), first)
    second = distft(*submit, "train.steps=100001", "--replace", "--no-follow", env=outside, folder=folder)
    status, output, errors = ended(second)
    assert status == 0, errors
    assert "to stop after its step, with a checkpoint" in errors
    assert ended(first)[0] == 75
    jobs = [record.job_id for record in read_jobs(run)]
    assert output.splitlines() == jobs[1:]
    limit = time.monotonic() + DEADLINE_S
    while not events(run, "resume"):
        assert time.monotonic() < limit
        time.sleep(0.2)
    assert "to stop" in ended(distft("cancel", "run", "--now", env=outside, folder=folder))[1]
    told = {"job": {"phase": "running"}}
    while told["job"]["phase"] != "ended":
        assert time.monotonic() < limit
        told = json.loads(ended(distft("status", "run", "--json", env=outside, folder=folder))[1])


@pytest.mark.slow
@pytest.mark.ray
def test_stopped_by_ray_itself_it_still_writes_a_checkpoint(
    outside: dict[str, str], shared_folder: Path, nodes: Nodes
) -> None:
    """`ray job stop`, or the dashboard's button: Ray would leave it 3 s and then call a killed job a success.

    And while it runs: its workers have their temporary files in the cluster file's scratch folder.
    """
    folder = folder_of(shared_folder, "stopped")
    run, theirs = folder / "run", folder / "theirs.yaml"
    shipped = (ROOT / "cluster_configs" / "ray-existing.yaml").read_text()
    theirs.write_text(shipped + "scratch: /dev/shm\n")
    many = distft("submit", "ray", *RECIPE, "output_dir=run", "train.steps=100000", "checkpoint.every=50000",
                  "--cluster", theirs, env=outside, folder=folder)  # fmt: skip
    until(lambda: steps(run), many)
    by_name = {node.name: node for node in nodes}
    for worker in next(event["workers"] for event in events(run, "group_ready") if event["role"] == "policy"):
        environ = by_name[worker["node"]].run(["cat", f"/proc/{worker['pid']}/environ"]).stdout
        assert "TMPDIR=/dev/shm" in environ.split("\0")
    imports = "from distft.launch.on_ray.job import RayJobs; from distft.tracking.jobs import *"
    code = f"{imports}; RayJobs().kill({read_jobs(run)[-1]!r})"
    subprocess.run([sys.executable, "-c", code], env=outside, check=True, timeout=60)
    assert ended(many)[0] == 75
    assert exit_record(run)["class"] == "stopped"
    assert checkpoints(run)
    told = json.loads(ended(distft("status", "run", "--json", env=outside, folder=folder))[1])
    assert (told["state"], told["job"]["said"]) == ("stopped", "STOPPED")


@pytest.mark.slow
@pytest.mark.ray
def test_cancelled_twice_it_ends_at_once(outside: dict[str, str], shared_folder: Path) -> None:
    folder = folder_of(shared_folder, "at-once")
    run = folder / "run"
    many = distft("submit", "ray", *RECIPE, "output_dir=run", "train.steps=100000", "checkpoint.every=50000",
                  env=outside, folder=folder)  # fmt: skip
    until(lambda: steps(run), many)
    assert "to stop at once" in ended(distft("cancel", "run", "--now", env=outside, folder=folder))[1]
    started = time.monotonic()
    assert ended(many)[0] in (130, 1)
    print(f"a job that was stopped at once had ended after {time.monotonic() - started:.1f} s")
    assert exit_record(run)["class"] == "interrupted"
    assert checkpoints(run) == []


@pytest.mark.slow
@pytest.mark.ray
def test_what_fails_on_the_cluster_comes_back_with_its_own_status(
    outside: dict[str, str], shared_folder: Path, ray: RayBed
) -> None:
    folder = folder_of(shared_folder, "failing")
    missing = ("submit", "ray", *RECIPE, "output_dir=missing", "data.train.0.path=./not-there.jsonl")
    status, output, _ = ended(distft(*missing, env=outside, folder=folder))
    assert status == 2, output
    assert "not-there.jsonl" in output

    # The private folder of this machine is not seen on the nodes, which have a /tmp of their own.
    private = Path("/tmp") / f"distft-not-shared-{os.getpid()}"
    private.mkdir()
    try:
        lost = ("submit", "ray", *RECIPE, f"output_dir={folder / 'lost'}")
        status, output, _ = ended(distft(*lost, env=outside, folder=private))
    finally:
        private.rmdir()
    assert status == 3, output
    assert f"the folder {private} is not seen on the cluster" in output

    nobody = JobRecord("ray", "distft-nobody-1", "ray-existing", ray.job_address)
    code = f"from distft.launch.jobs.backends import *\nprint(job_state({nobody!r}).phase)"
    told = subprocess.run(
        [sys.executable, "-c", code], env=outside, check=True, timeout=60, capture_output=True, text=True
    )
    assert told.stdout.strip() == "unknown"


@pytest.mark.slow
@pytest.mark.ray
def test_who_has_no_token_or_a_wrong_one_is_told_so(
    outside: dict[str, str], shared_folder: Path, ray: RayBed, tmp_path: Path
) -> None:
    folder = folder_of(shared_folder, "refused")
    submit = ("submit", "ray", *RECIPE, "output_dir=run")
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    nothing = {name: value for name, value in outside.items() if not name.startswith("RAY_AUTH")} | {
        "HOME": str(tmp_path)
    }
    cases = {
        "the Ray cluster refuses this token": outside | {"RAY_AUTH_TOKEN_PATH": str(wrong)},
        "there is no token for the Ray cluster": nothing,
        "cannot be read: No such file": outside | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "missing")},
        "Ray's job server cannot be reached": outside | {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"},
        "where its job server listens is not said": outside | {"RAY_API_SERVER_ADDRESS": ""},
    }
    for message, env in cases.items():
        status, output, errors = ended(distft(*submit, env=env, folder=folder))
        assert (status, output) == (3, ""), errors
        assert message in errors
        assert "Traceback" not in errors
    assert not (folder / "run").exists()
    assert ray.ask("/api/jobs/", token="")[0] == 401


class OpenRay(RayBed):
    """A cluster whose owner asks nobody for a token."""

    def __init__(self, nodes: Nodes, **options: Any) -> None:
        super().__init__(nodes, **options)
        self.env = self.strange_env | {"RAY_AUTH_MODE": "disabled"}


@pytest.mark.slow
@pytest.mark.ray
def test_a_cluster_that_obeys_anyone_is_refused_unless_its_file_says_so(shared_folder: Path) -> None:
    folder = folder_of(shared_folder, "open")
    with Nodes(1, folder) as nodes, OpenRay(nodes, cpus=4) as ray:
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text("0" * 64)
        outside = {name: value for name, value in ray.env.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")} | {
            "RAY_API_SERVER_ADDRESS": ray.job_address, "RAY_AUTH_TOKEN_PATH": str(token), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        refused = ended(distft("submit", "ray", *RECIPE, "output_dir=run", env=outside, folder=folder))
        assert refused[0] == 3, refused
        assert "answered 200, not 401, to a request without a token" in refused[2]

        train = [sys.executable, "-m", "distft.cli", "train", *RECIPE, "output_dir=run", "--cluster"]
        environment = ray.env | {"PYTHONPATH": str(ROOT)}
        done = nodes[0].run([*train, "ray-existing"], env=environment, cwd=folder, check=False, timeout=DEADLINE_S)
        assert done.returncode == 3, done
        assert "not 401, to a request without a token" in done.stderr

        accepted = folder / "accepted.yaml"
        shipped = (ROOT / "cluster_configs" / "ray-existing.yaml").read_text()
        accepted.write_text(shipped + "authentication: none\n")
        done = nodes[0].run([*train, accepted], env=environment, cwd=folder, check=False, timeout=DEADLINE_S)
        assert done.returncode == 0, done


@pytest.mark.slow
@pytest.mark.ray
def test_the_plan_is_made_for_the_nodes_that_are_there(ray: RayBed, nodes: Nodes, shared_folder: Path) -> None:
    words = [sys.executable, "-m", "distft.cli", "plan", *RECIPE, "--cluster", "ray-existing", "--json"]
    told = nodes[1].run(words, env=ray.env | {"PYTHONPATH": str(ROOT)}, timeout=120)
    plan = json.loads(told.stdout)
    assert (plan["hardware"]["nodes"], plan["hardware"]["cpus"]) == (2, 8)
    assert plan["kind"] == "ray"


@pytest.mark.slow
@pytest.mark.ray
def test_the_doctor_sees_both_nodes(ray: RayBed, nodes: Nodes, shared_folder: Path) -> None:
    words = [sys.executable, "-m", "distft.cli", "doctor", "--cluster", "ray-existing", "--json"]
    environment = ray.env | {"PYTHONPATH": str(ROOT)}
    told = nodes[0].run([*words, "--recipe", "sft-tiny", "--folder", shared_folder], env=environment, timeout=240)
    report = json.loads(told.stdout)
    found = {finding["check"]: finding for finding in report["findings"]}
    assert report["ok"], report
    assert "2: n1, n2" in found["nodes"]["found"]
    assert "answers 401" in found["agent"]["found"]
    assert "gloo, 2 ranks: sums right" in found["network"]["found"]
    assert "the planned checkpoints take" in found["disk"]["found"]

    private = nodes[0].run([*words, "--folder", "/tmp"], env=environment, timeout=240, check=False)
    assert private.returncode == 3, private
    wrong = [finding for finding in json.loads(private.stdout)["findings"] if finding["state"] == "wrong"]
    assert [(finding["check"], finding["nodes"]) for finding in wrong] == [("folder", ["n2"])]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_a_pipeline_is_one_job_and_goes_on_at_the_stage_that_was_stopped(
    outside: dict[str, str], shared_folder: Path
) -> None:
    """Cancelled in its second stage; the same command does not do the first again, and ends with all three."""
    folder = folder_of(shared_folder, "pipeline")
    run = folder / "three"
    words = (three_stages(folder / "three.yaml"), *LONG_SECOND)
    first = distft("submit", "ray", *words, env=outside, folder=folder)
    until(lambda: steps(run / "dpo"), first)
    told = json.loads(ended(distft("status", "three", "--json", env=outside, folder=folder))[1])
    assert [(Path(one["run_dir"]).name, one["state"]) for one in told] == [
        ("three", "running"), ("dpo", "running"), ("sft", "done"),
    ]  # fmt: skip
    status, output, errors = ended(distft("cancel", "three", env=outside, folder=folder))
    assert status == 0, errors
    assert "to stop after its step, with a checkpoint" in output
    status, output, errors = ended(first, PIPELINE_S)
    assert status == 75, output + errors
    assert not (run / "kto").exists()
    stopped = exit_record(run / "dpo")["cause"]
    before = (run / "sft" / "metrics.jsonl").read_bytes()

    status, output, errors = ended(distft("submit", "ray", *words, env=outside, folder=folder), PIPELINE_S)
    assert status == 0, output + errors
    assert "sft: already finished" in output
    [resumed] = [event["step"] for event in events(run / "dpo", "resume")]
    assert f"stopped after step {resumed} with a checkpoint" in stopped
    assert 0 < resumed < 300
    assert (run / "sft" / "metrics.jsonl").read_bytes() == before
    assert [exit_record(run / stage)["class"] for stage in (*STAGES, "judged")] == ["done"] * 4
    assert [job.job_id.rpartition("-")[2] for job in read_jobs(run)] == ["1", "2"]
    again = ended(distft("submit", "ray", *words, env=outside, folder=folder))
    assert again[0] == 0
    assert "three: already finished" in again[1]
