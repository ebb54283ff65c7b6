"""Runs as Slurm jobs over two machines: submitted, interrupted, refused."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from distft.tracking.jobs import read_jobs
from tests.cluster.slurm_bed import SlurmBed
from tests.cluster.slurm_runs import ROLES, SCRIPT, assert_same_metrics, here, submit, submitting
from tests.e2e.conftest import SFT, checkpoints, events, exit_record

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SFT_STEPS = 80  # a tenth of a second each: long enough for word of a signal to come before the end


@pytest.fixture(scope="module")
def reference(shared_folder: Path) -> Path:
    """The run on one machine that nobody disturbs."""
    return here(shared_folder / "one-machine")


def test_a_run_over_two_nodes(slurm: SlurmBed, shared_folder: Path, reference: Path) -> None:
    """The shipped PPO recipe, every role's two ranks on different nodes, equal to a run on one machine."""
    run = submit(slurm, shared_folder / "two nodes")
    assert [record.job_id for record in read_jobs(run.folder)] == [run.job]
    run.wait()
    assert slurm.job(run.job)["ExitCode"] == "0:0"
    ready = {event["role"]: event["workers"] for event in events(run.folder, "group_ready")}
    for role in ROLES:
        assert [worker["node"] for worker in ready[role]] == ["n1", "n2"], role
    assert exit_record(run.folder)["class"] == "done"
    assert_same_metrics(run.folder, reference)
    assert run.output.splitlines()[-1] == f"distft: done; the run is in {run.folder}"
    assert "2 of 2 nodes are here" in run.output
    assert re.search(r"^\d{4}-\d\d-\d\d [\d:]{8} \S+: step 1/\d+  ", run.output, re.MULTILINE), (
        "progress, with the time"
    )
    for number in (0, 1):
        assert (run.folder / "logs" / f"node-{number}.log").is_file()
    launch = run.folder / "launch" / f"{run.job}.0"
    assert launch.stat().st_mode & 0o777 == 0o700
    assert not (launch / "token").exists(), "it has served"
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(run.folder / "final").num_parameters() > 0
    again = submitting(slurm, run.folder, "ppo-tiny", f"output_dir={run.folder}")
    assert again.returncode == 2, "another recipe in the same folder"
    assert "holds a run of another recipe" in again.stderr


def test_a_job_sent_usr1_goes_on_where_it_stopped(slurm: SlurmBed, shared_folder: Path) -> None:
    """Checkpoint, requeue, and then the same metrics as a run that nobody disturbed. What resumes is SFT: how PPO goes
    on from a checkpoint is no matter of Slurm's, and four groups start twice in three times as long."""
    recipe = (*SFT[1:], "checkpoint.every=500")
    undisturbed = here(shared_folder / "undisturbed", steps=SFT_STEPS, recipe=recipe)
    run = submit(slurm, shared_folder / "usr1", steps=SFT_STEPS, recipe=recipe)
    run.wait_for_step()
    slurm.run(["scancel", "--signal=USR1", run.job])
    run.until(lambda: (run.folder / "launch" / f"{run.job}.0" / "status.json").exists(), "word of how it ended")
    stopped = run.status(0)
    assert (stopped["class"], stopped["exit_status"], stopped["why_stopped"]) == ("stopped", 75, "usr1")
    assert checkpoints(run.folder), "a checkpoint although none was due"
    run.wait()
    assert slurm.job(run.job)["Restarts"] == "1"
    assert run.status(1)["class"] == "done"
    (stop,) = events(run.folder, "stop")
    (resume,) = events(run.folder, "resume")
    assert "with a checkpoint" in stop["cause"]
    assert 1 <= stop["step"] == resume["step"] < SFT_STEPS, "no step was lost"
    assert "because Slurm announced the end (USR1)" in run.output
    assert_same_metrics(run.folder, undisturbed)


def cluster_file(folder: Path, **slurm: object) -> str:
    """A cluster file of the user's own: two nodes as the bed's."""
    folder.mkdir(exist_ok=True)
    node: dict[str, object] = {"cpus": 2, "ranks_per_cpu": 4, "memory_gib": 15, "gpus": slurm.pop("gpus", 0)}
    if node["gpus"]:
        node["gpu"] = {
            "type": "a100",
            "memory_gib": 40,
            "bf16_tflops": 1,
            "memory_bandwidth_gbs": 1,
            "interconnect_gbs": 1,
        }
    tree = {"name": "mine", "kind": "slurm", "nodes": slurm.pop("nodes", 2), "node": node, "slurm": slurm}
    path = folder / "cluster.yaml"
    path.write_text(json.dumps(tree))
    return str(path)


@pytest.mark.parametrize(("said", "message"), [
    ({"partition": "mane"}, "slurm.partition: there is no partition mane\n  did you mean main?"),
    ({"gpus": 9, "gpus_typed": False}, "no node with 9 GPUs of type a100; GPUs a node: 2 of no type"),
    ({"gpus": 1}, "slurm.gpus_typed: false"),
    ({"nodes": 3}, "has 2 such nodes, the cluster file says 3\n  nearest: nodes: 2"),
    ({"time": "1:00:01"}, "slurm.time: partition main runs no job longer than 0-01:00:00"),
    ({"constraint": "fast"}, "slurm: sbatch refused: "),
])  # fmt: skip
def test_what_slurm_would_refuse_is_one_message(
    slurm: SlurmBed, shared_folder: Path, said: dict[str, object], message: str
) -> None:
    folder = shared_folder / "refused"
    path = cluster_file(folder, **said)
    done = submitting(slurm, folder / "run", "sft-tiny", f"output_dir={folder / 'run'}", cluster=path)
    assert done.returncode in (2, 3), done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) <= 3
    assert slurm.run(["squeue", "--noheader"]).stdout == ""


def test_a_folder_that_cannot_be_written_is_one_message(slurm: SlurmBed, shared_folder: Path) -> None:
    (shared_folder / "a file").write_text("")
    done = submitting(slurm, shared_folder / "x", "sft-tiny", f"output_dir={shared_folder / 'a file' / 'run'}")
    assert done.returncode == 2
    assert "a file is a file, not a folder" in done.stderr
    assert done.stdout == ""


def test_a_wrong_word_ends_a_plain_job_at_once(slurm: SlurmBed, shared_folder: Path) -> None:
    """Before any node is started, with the run's own exit status."""
    job = slurm.sbatch([f"--chdir={shared_folder}", SCRIPT, "--python", sys.executable, "ppo-tinny"])
    assert slurm.wait(job, 60) == "FAILED"
    assert slurm.job(job)["ExitCode"] == "2:0"
    said = (shared_folder / f"slurm-{job}.out").read_text()
    assert "ppo-tinny: no shipped recipe has this name\n  did you mean ppo-tiny?" in said
    assert "Traceback" not in said


def test_a_dry_run_needs_no_slurm_and_leaves_nothing(shared_folder: Path, slurm: SlurmBed) -> None:
    """And what it prints is what Slurm takes."""
    folder = shared_folder / "dry $(run)"
    done = submitting(slurm, folder, "sft-tiny", f"output_dir={folder}", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not folder.exists()
    job = slurm.run(["bash", "-c", done.stdout.replace("sbatch ", "sbatch --hold ", 1)]).stdout.strip()
    shown = slurm.job(job)
    slurm.run(["scancel", job])
    assert (shown["JobState"], shown["NumNodes"], shown["JobName"]) == ("PENDING", "2-2", "sft-tiny")
    assert (folder / "logs").is_dir()
