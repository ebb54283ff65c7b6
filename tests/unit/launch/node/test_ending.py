"""How an attempt ended, as the head tells it; and whether the job starts again by itself."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from distft.checkpoint.layout import checkpoints_folder, step_name
from distft.common.errors import EnvironmentFallsShort
from distft.launch.node.ending import Status, Why, decided, of_driver, told
from distft.launch.node.files import NodeFiles
from distft.tracking.exit import Ending, write_exit


def stopped(why: Why = "usr1") -> Status:
    return Status("stopped", 75, "stopped after step 3", why_stopped=why)


def saved(run_dir: Path, step: int, when: float | None = None) -> None:
    folder = checkpoints_folder(run_dir) / step_name(step)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    if when is not None:
        os.utime(folder / "manifest.json", (when, when))


def launch(run_dir: Path, restart: int) -> Path:
    folder = run_dir / "launch" / f"7.{restart}"
    NodeFiles(folder).make()
    return folder


# ---- the driver's end


def test_exit_json_is_the_first_witness(tmp_path: Path) -> None:
    write_exit(tmp_path, Ending("death", 1, "SIGKILL", "policy", 1, "n2", "update", "/logs/policy-1.log"), 1)
    found = of_driver(tmp_path, 1, time.time() - 5, "", [])
    assert found == Status("death", 1, "SIGKILL", "policy", 1, "n2", "update", "/logs/policy-1.log")


def test_that_of_a_former_attempt_does_not_count(tmp_path: Path) -> None:
    write_exit(tmp_path, Ending("death", 1, "SIGKILL", "policy", 1), 1)
    found = of_driver(tmp_path, 1, time.time() + 5, "", ["distft: something else"])
    assert (found.kind, found.cause, found.role) == ("defect", "distft: something else", "")


@pytest.mark.parametrize(("code", "why", "kind", "status"), [
    (0, "", "done", 0), (2, "", "user_error", 2), (3, "", "environment", 3), (75, "", "stopped", 75),
    (-signal.SIGTERM, "usr1", "stopped", 75), (-signal.SIGTERM, "", "death", 1), (-signal.SIGKILL, "usr1", "death", 1),
])  # fmt: skip
def test_without_it_the_exit_status_speaks(tmp_path: Path, code: int, why: Why, kind: str, status: int) -> None:
    found = of_driver(tmp_path, code, time.time(), why, ["said"])
    assert (found.kind, found.exit_status) == (kind, status)


def test_a_driver_that_stops_by_itself_saw_its_time_run_out(tmp_path: Path) -> None:
    write_exit(tmp_path, Ending("stopped", 75, "12 s left"), 1)
    assert of_driver(tmp_path, 75, time.time() - 5, "", []).why_stopped == "time"
    assert of_driver(tmp_path, 75, time.time() - 5, "usr1", []).why_stopped == "usr1"


def test_an_error_of_the_launcher(tmp_path: Path) -> None:
    found = Status.of(EnvironmentFallsShort("n2 did not come up within 9 s", where="nodes"))
    assert (found.kind, found.exit_status) == ("environment", 3)
    assert "nodes: n2 did not come up" in told(found, tmp_path)


# ---- starting again


def test_a_stopped_job_starts_again(tmp_path: Path) -> None:
    assert decided(stopped(), launch(tmp_path, 0), tmp_path, 0).requeue
    assert decided(stopped("terminated"), tmp_path / "x.0", tmp_path, 0).requeue, (
        "the batch script asks Slurm which it was"
    )


@pytest.mark.parametrize("status", [
    Status("done", 0), Status("cancelled", 75, "distft cancel"), Status("death", 1, "SIGKILL"),
    Status("interrupted", 130),
])  # fmt: skip
def test_nothing_else_does(tmp_path: Path, status: Status) -> None:
    assert not decided(status, launch(tmp_path, 0), tmp_path, 0).requeue


def test_a_job_that_never_comes_to_a_checkpoint_does_not_go_round_in_circles(tmp_path: Path) -> None:
    saved(tmp_path, 5, when=time.time() - 1000)
    launch(tmp_path, 0)
    second = launch(tmp_path, 1)
    found = decided(stopped(), second, tmp_path, 1)
    assert not found.requeue
    assert "give it more time" in found.cause
    saved(tmp_path, 6)
    assert decided(stopped(), second, tmp_path, 1).requeue


def test_one_that_slurm_would_not_wait_for_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    here = launch(tmp_path, 0)
    killed = of_driver(tmp_path, -signal.SIGKILL, time.time(), "terminated", [])
    assert (decided(killed, here, tmp_path, 0).exit_status, decided(killed, here, tmp_path, 0).requeue) == (1, False)
    saved(tmp_path, 4)
    found = decided(killed, here, tmp_path, 0)
    assert (found.kind, found.exit_status, found.requeue) == ("stopped", 75, True)
    by_nobody = of_driver(tmp_path, -signal.SIGKILL, time.time(), "", [])
    assert not decided(by_nobody, here, tmp_path, 0).requeue


# ---- the files


def test_the_batch_script_reads_no_json(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path / "launch" / "7.0")
    files.make()
    assert files.folder.stat().st_mode & 0o777 == 0o700
    assert (files.folder / "token").stat().st_mode & 0o777 == 0o600
    assert len(files.token()) == 64
    status = decided(stopped(), files.folder, tmp_path, 0)
    files.write_status(status.as_json(), told(status, tmp_path))
    assert (files.folder / "exit_status").read_text() == "75\n"
    assert (files.folder / "requeue").is_file()
    content = json.loads((files.folder / "status.json").read_text())
    assert (content["class"], content["exit_status"], content["why_stopped"]) == ("stopped", 75, "usr1")
    text = (files.folder / "ending").read_text()
    assert "because Slurm announced the end (USR1)" in text
    assert "started again by itself" in text


def test_a_start_has_one_head(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path / "7.0")
    files.make()
    with pytest.raises(FileExistsError):
        files.make()


def test_nodes_are_seen_as_they_come(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path / "7.0")
    assert files.nodes(3) == {}
    assert files.read("head.json") is None
    files.make()
    files.write_node(2, "ready")
    files.write_node(1, "failed", cause="no room")
    files.write_head("10.0.0.1:6", "10.0.0.1")
    assert {number: said["state"] for number, said in files.nodes(3).items()} == {1: "failed", 2: "ready"}
    head = files.read("head.json")
    assert head is not None
    assert head["address"] == "10.0.0.1:6"


def test_the_ending_shows_the_last_lines_of_the_failing_rank(tmp_path: Path) -> None:
    log = tmp_path / "policy-1.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    text = told(Status("death", 1, "SIGKILL", "policy", 1, "n2", log=str(log)), tmp_path)
    lines = text.splitlines()
    assert lines[0] == "distft: failed (death): policy rank 1 on n2: SIGKILL"
    assert f"  log: {log}" in lines
    assert [line for line in lines if line.startswith("    line")] == [
        f"    line {number}" for number in range(80, 100)
    ]
    assert lines[-1].startswith("  exit status 1; all logs: ")
