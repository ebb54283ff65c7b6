"""One job a run, what becomes of it, and what its scheduler is told: on two machines with a real Slurm."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from distft.tracking.jobs import read_jobs
from tests.cluster.bed import ROOT
from tests.cluster.slurm_bed import SlurmBed
from tests.cluster.slurm_runs import SCRIPT
from tests.cluster.test_job_verbs import SUBMIT, distft, state, steps, until
from tests.e2e.conftest import SFT, checkpoints, exit_record

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SMALL = ("submit", "slurm", *SFT[1:], "--cluster", "slurm-cpu")
# Stands in the place of a virtual environment's Python on every node.
FAKE_PYTHON = """#!{python}
import json, os, pathlib, time
folder = pathlib.Path("{folder}")
(folder / os.environ["SLURMD_NODENAME"]).write_text(json.dumps(dict(os.environ)))
while not (folder / "go on").exists():
    time.sleep(0.1)
"""


@pytest.fixture(autouse=True)
def no_jobs_are_left(slurm: SlurmBed) -> Iterator[None]:
    yield
    slurm.run(["scancel", "--user=root"])
    until(lambda: not slurm.run(["squeue", "--noheader"]).stdout.strip(), "an empty queue")


@pytest.fixture
def blocker(slurm: SlurmBed) -> str:
    """A job of somebody else's that has both nodes, so that others wait."""
    job = slurm.sbatch(["-N2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 600"])
    slurm.wait_for(job, "RUNNING", 30)
    return job


def new_folder(shared_folder: Path, name: str) -> Path:
    folder = shared_folder / name
    folder.mkdir()
    return folder


def test_only_the_allowed_variables_reach_slurm_and_the_job(slurm: SlurmBed, shared_folder: Path) -> None:
    folder = new_folder(shared_folder, "variables")
    python = folder / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE_PYTHON.format(python=sys.executable, folder=folder))
    python.chmod(0o755)
    shipped = (ROOT / "cluster_configs" / "slurm-cpu.yaml").read_text()
    ours = folder / "ours.yaml"
    ours.write_text(f"{shipped}virtualenv: {folder}/environment\nenvironment: {{MY_TOKEN: null}}\n")
    secrets = {"MY_TOKEN": "known-to-the-job", "OPENAI_API_KEY": "not-for-slurm", "SOMETHING_ELSE": "not-for-slurm"}
    done = distft("submit", "slurm", *SFT[1:], "--cluster", ours, "output_dir=run", "--slurm", "comment=it's mine",
                  env=slurm.env | secrets | {"NCCL_DEBUG": "WARN"}, folder=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    assert f"as Slurm job {job}, 2 nodes of slurm-cpu\n  distft status run; distft logs run --follow" in done.stderr
    until(lambda: (folder / "n1").exists() and (folder / "n2").exists(), "both nodes")
    assert slurm.job(job)["Comment"].startswith("it")
    files = [path for path in slurm.state_files.rglob("*") if path.is_file()]
    kept = "".join(path.read_bytes().decode(errors="replace") for path in files)
    (folder / "go on").touch()
    assert "known-to-the-job" in kept, "this is where a job's variables lie"
    assert "not-for-slurm" not in kept
    for node in ("n1", "n2"):
        seen = json.loads((folder / node).read_text())
        assert (seen["MY_TOKEN"], seen["NCCL_DEBUG"]) == ("known-to-the-job", "WARN")
        assert not {"OPENAI_API_KEY", "SOMETHING_ELSE"} & seen.keys()
    slurm.wait(job, 60)
    told = state(slurm, "run", folder)
    assert told["state"] == "failed", "no launcher of ours ran there"
    assert "the launcher did not start on n1" in distft("logs", "run", env=slurm.env, folder=folder).stdout


@pytest.mark.parametrize(("keys", "said"), [
    ({"container": {"runtime": "apptainer", "image": "{folder}/image.sif"}}, "there is no apptainer on n1, n2: "),
    pytest.param({"container": {"runtime": "apptainer", "image": "/nodes/i.sif"}},
                 "there is no /nodes/i.sif on n1, n2: ", marks=pytest.mark.slow),
    pytest.param({"virtualenv": "/nodes/v"}, "there is no /nodes/v/bin/python on n1, n2: ", marks=pytest.mark.slow),
], ids=["no apptainer", "no image", "no virtualenv"])  # fmt: skip
def test_what_no_node_has_is_one_message_in_the_jobs_first_seconds(
    slurm: SlurmBed, shared_folder: Path, keys: dict[str, object], said: str
) -> None:
    folder = new_folder(shared_folder, re.sub("[/, :]+", "-", said))
    (folder / "image.sif").touch()
    ours, runtime = folder / "ours.yaml", folder / "apptainer"
    shipped = (ROOT / "cluster_configs" / "slurm-cpu.yaml").read_text()
    ours.write_text(shipped + json.dumps(keys).replace("{folder}", str(folder))[1:-1] + "\n")
    runtime.write_text("#!/bin/sh\n")
    runtime.chmod(0o755 if "apptainer" not in said else 0o644)
    env = slurm.env | {"PATH": f"{slurm.env['PATH']}:{folder}"}
    done = distft("submit", "slurm", *SFT[1:], "--cluster", ours, "output_dir=run", env=env, folder=folder)
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    assert slurm.wait(job, 60) == "FAILED"
    assert slurm.job(job)["ExitCode"] == "3:0"
    printed = (folder / "run" / "logs" / f"slurm-{job}.out").read_text().splitlines()
    assert printed[1:] == []
    assert printed[0].startswith(f"distft: {said}"), printed


def test_a_second_job_is_refused_or_takes_the_place_of_the_first(
    slurm: SlurmBed, shared_folder: Path, blocker: str
) -> None:
    folder = new_folder(shared_folder, "second")
    words = (*SMALL, "output_dir=run")
    first = distft(*words, env=slurm.env, folder=folder).stdout.strip()
    refused = distft(*words, env=slurm.env, folder=folder)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"this run has a job that has not ended (slurm job {first}: PENDING)" in refused.stderr
    assert "or --replace" in refused.stderr
    assert slurm.state(first) == "PENDING"
    second = distft(*words, "--replace", env=slurm.env, folder=folder)
    assert second.returncode == 0, second.stderr
    assert f"slurm job {first} was still waiting and has been taken back" in second.stderr
    assert slurm.state(first) == "CANCELLED"
    told = state(slurm, "run", folder)
    assert (told["state"], [job["record"]["job_id"] for job in told["known"]]) == ("waiting", [second.stdout.strip()])
    assert "has been taken back" in distft("cancel", "run", env=slurm.env, folder=folder).stdout
    assert state(slurm, "run", folder)["state"] == "stopped", "it never ran, so it is not done"


@pytest.mark.slow
def test_cancel_means_the_one_that_runs_and_the_one_that_waits(slurm: SlurmBed, shared_folder: Path) -> None:
    folder = new_folder(shared_folder, "both")
    first = distft(*SUBMIT, env=slurm.env, folder=folder).stdout.strip()
    until(lambda: steps(folder / "run"), "steps")
    refused = distft(*SUBMIT, env=slurm.env, folder=folder)
    assert refused.returncode == 2
    assert f"slurm job {first}: RUNNING" in refused.stderr
    chained = distft(*SUBMIT, "--after", first, env=slurm.env, folder=folder)
    assert chained.returncode == 0, chained.stderr
    second = chained.stdout.strip()
    told = state(slurm, "run", folder)
    assert told["state"] == "running"
    assert [(job["record"]["job_id"], job["state"]["said"]) for job in told["known"]] == [
        (first, "RUNNING"), (second, "PENDING"),
    ]  # fmt: skip
    assert told["job"]["said"] == "RUNNING"
    lines = distft("cancel", "run", env=slurm.env, folder=folder).stdout.splitlines()
    assert lines[0] == f"slurm job {second} was still waiting and has been taken back"
    assert lines[1].startswith("asked process ")
    assert state(slurm, "run", folder)["state"] in ("stopping", "stopped")
    slurm.wait(first, 120)
    assert slurm.state(second) == "CANCELLED"
    assert state(slurm, "run", folder)["state"] == "stopped"
    assert exit_record(folder / "run")["class"] == "cancelled"
    assert checkpoints(folder / "run")


@pytest.mark.slow
def test_a_running_job_is_replaced_by_one_that_goes_on_from_its_checkpoint(
    slurm: SlurmBed, shared_folder: Path
) -> None:
    folder = new_folder(shared_folder, "replaced")
    first = distft(*SUBMIT, env=slurm.env, folder=folder).stdout.strip()
    until(lambda: steps(folder / "run"), "steps")
    done = distft(*SUBMIT, "--replace", env=slurm.env, folder=folder)
    assert done.returncode == 0, done.stderr
    assert "to stop after its step, with a checkpoint" in done.stderr
    second = done.stdout.strip()
    assert slurm.job(second)["Dependency"].startswith(f"afterany:{first}")
    slurm.wait(first, 120)
    (saved,) = checkpoints(folder / "run")
    until(lambda: [line for line in steps(folder / "run") if line["step"] > saved], "a step of the second")
    assert state(slurm, "run", folder)["job"]["said"] == "RUNNING"


@pytest.mark.slow
def test_states_of_jobs_that_never_came_to_a_step(slurm: SlurmBed, shared_folder: Path, blocker: str) -> None:
    """Taken back by us, by scancel, as tasks of an array; cancelled while they start, by us and by scancel."""
    folder = new_folder(shared_folder, "no step")
    alone = distft(*SMALL, "output_dir=alone", env=slurm.env, folder=folder).stdout.strip()
    swept = distft(*SMALL, "--sweep", "seed=1,2,3", "output_dir=sweep", env=slurm.env, folder=folder)
    assert swept.returncode == 0, swept.stderr
    assert f"  task 2: {folder}/sweep-2: seed=3" in swept.stderr.splitlines()
    array = swept.stdout.strip()
    assert [record.job_id for record in read_jobs(folder / "sweep-1")] == [f"{array}_1"]
    assert state(slurm, "sweep-1", folder)["state"] == "waiting"
    waiting = distft("logs", "sweep-1", env=slurm.env, folder=folder)
    assert waiting.stdout == ""
    assert f"nothing has been logged yet: slurm job {array}_1 is PENDING (" in waiting.stderr
    assert "has been taken back" in distft("cancel", "sweep-1", env=slurm.env, folder=folder).stdout
    slurm.run(["scancel", f"{array}_2"])
    slurm.run(["scancel", alone])
    assert {name: state(slurm, name, folder)["state"] for name in ("alone", "sweep-0", "sweep-1", "sweep-2")} == {
        "alone": "stopped", "sweep-0": "waiting", "sweep-1": "stopped", "sweep-2": "lost",
    }  # fmt: skip
    slurm.run(["scancel", blocker])
    slurm.wait_for(f"{array}_0", "RUNNING", 60)
    assert state(slurm, "sweep-0", folder)["state"] == "starting"
    told = distft("cancel", "sweep-0", env=slurm.env, folder=folder).stdout
    assert f"asked slurm job {array}_0 to stop" in told
    slurm.wait(f"{array}_0", 120)
    ended = state(slurm, "sweep-0", folder)
    assert (ended["state"], ended["exit"]["class"]) == ("stopped", "cancelled"), ended
    assert not (folder / "sweep-0" / "stop.json").exists()

    again = distft(*SMALL, "output_dir=alone", env=slurm.env, folder=folder).stdout.strip()
    until((folder / "alone" / "launch" / f"{again}.0" / "head.json").exists, "its Ray")
    slurm.run(["scancel", again])
    slurm.wait(again, 60)
    ended = state(slurm, "alone", folder)
    assert ended["state"] == "stopped", ended
    assert ended["exit"]["exit_status"] == 75, ended


@pytest.mark.slow
def test_states_of_plain_jobs_that_end_well_and_badly(slurm: SlurmBed, shared_folder: Path) -> None:
    """Submitted by sbatch alone, they have a job line from their start."""
    folder = new_folder(shared_folder, "plain jobs")
    words = ["-N2", "--mem=8G", "-c2", f"--chdir={folder}", SCRIPT, "--python", sys.executable, *SFT[1:]]
    env = {"PYTHONPATH": str(ROOT)}
    good = slurm.sbatch([*words, "output_dir=good"], env=env)
    until(lambda: [record.job_id for record in read_jobs(folder / "good")] == [good], "a job line")
    assert state(slurm, "good", folder)["state"] in ("starting", "running")
    refused = distft(*SMALL, "output_dir=good", env=slurm.env, folder=folder)
    assert refused.returncode == 2
    assert f"slurm job {good}: RUNNING" in refused.stderr
    slurm.wait(good, 240)
    assert state(slurm, "good", folder)["state"] == "done"
    bad = slurm.sbatch([*words, "output_dir=bad", "data.train.0.path=./lost.jsonl"], env=env)
    assert slurm.wait(bad, 120) == "FAILED"
    ended = state(slurm, "bad", folder)
    assert (ended["state"], ended["exit"]["exit_status"]) == ("failed", 2)
    assert "lost.jsonl" in ended["exit"]["cause"]
    killed = slurm.sbatch([*words, "output_dir=killed", "train.steps=100000", "checkpoint.every=50000"], env=env)
    until(lambda: steps(folder / "killed"), "steps")
    slurm.run(["scancel", killed])
    slurm.wait(killed, 60)
    ended = state(slurm, "killed", folder)
    assert (ended["state"], ended["job"]["said"]) == ("stopped", "CANCELLED"), ended


@pytest.mark.slow
def test_state_of_a_job_whose_node_is_taken_out(slurm: SlurmBed, shared_folder: Path) -> None:
    """Slurm ends it on all nodes, with time for a checkpoint; what is left says that it was Slurm, and it can go on."""
    folder = new_folder(shared_folder, "a node goes")
    words = ["-N2", "--mem=8G", "-c2", "--no-requeue", f"--chdir={folder}", SCRIPT, "--python", sys.executable]
    endless = [*SFT[1:], "output_dir=run", "train.steps=100000", "checkpoint.every=50000"]
    job = slurm.sbatch([*words, *endless], env={"PYTHONPATH": str(ROOT)})
    until(lambda: steps(folder / "run"), "steps")
    slurm.run(["scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=taken"])
    try:
        assert slurm.wait(job, 120) == "NODE_FAIL"
        ended = state(slurm, "run", folder)
        assert (ended["state"], ended["job"]["said"]) == ("stopped", "NODE_FAIL"), ended
        assert checkpoints(folder / "run")
    finally:
        # Its slurmd registers it again.
        until(lambda: "DOWN" not in slurm.run(["scontrol", "show", "node", "n2"]).stdout, "the node's return")


@pytest.mark.slow
def test_a_sweep_trains_every_value(slurm: SlurmBed, shared_folder: Path) -> None:
    folder = new_folder(shared_folder, "swept")
    done = distft(*SMALL, "--sweep", "seed=3,4", "--array", "0-1%1", env=slurm.env, folder=folder)
    assert done.returncode == 0, done.stderr
    runs = sorted((folder / "runs").glob("sft-*"))
    assert [run.name for run in runs] == ["sft-tiny-0", "sft-tiny-1"]
    slurm.wait(done.stdout.strip(), 300)
    for run, seed in zip(runs, (3, 4), strict=True):
        assert yaml.safe_load((run / "recipe.yaml").read_text())["seed"] == seed
        assert state(slurm, run, folder)["state"] == "done"
