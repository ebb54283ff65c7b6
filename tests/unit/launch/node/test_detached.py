"""The launcher outside of its task's family: it hears what the task hears, and outlives it long enough to clear up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Says its process id, then every signal that it hears; ends at SIGTERM with 7, or when the task has ended.
TASK = """
import os, pathlib, signal, sys, time
from distft.launch.node.detached import run_detached
log = pathlib.Path(sys.argv[1])

def say(word):
    with log.open("a") as file:
        file.write(f"{word}\\n")

def work(life, listening):
    heard = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: (heard.append(number), say(signal.Signals(number).name)))
    listening()
    say(os.getpid())
    while signal.SIGTERM not in heard:
        if life.over:
            say("the task has ended")
            return 1
        time.sleep(0.02)
    print("goes to the task's output", flush=True)
    return 7

sys.exit(run_detached(work))
"""


def assert_soon(condition: Callable[[], bool]) -> None:
    """Waits for it."""
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def said(log: Path) -> list[str]:
    return log.read_text().split("\n")[:-1] if log.exists() else []


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def task(root: Path, log: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", TASK, str(log)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert_soon(lambda: bool(said(log)))
    yield process
    process.kill()
    process.communicate()


def test_it_is_no_descendant_of_the_task(task: subprocess.Popen[str], log: Path) -> None:
    launcher = int(said(log)[0])
    assert launcher != task.pid
    parent = int(Path(f"/proc/{launcher}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent != task.pid
    assert os.getsid(launcher) != os.getsid(task.pid)


def test_signals_are_passed_on_and_the_status_comes_back(task: subprocess.Popen[str], log: Path) -> None:
    task.send_signal(signal.SIGUSR1)
    assert_soon(lambda: "SIGUSR1" in said(log))
    task.send_signal(signal.SIGTERM)
    output, _ = task.communicate(timeout=20)
    assert task.returncode == 7
    assert output == "goes to the task's output\n"
    assert said(log)[1:] == ["SIGUSR1", "SIGTERM"]


def test_it_sees_that_its_task_was_killed(task: subprocess.Popen[str], log: Path) -> None:
    task.kill()
    assert_soon(lambda: len(said(log)) > 1)
    assert said(log)[1:] == ["the task has ended"]  # and no signal besides, to which it would save and stop


def test_a_launcher_that_dies_is_a_failure(task: subprocess.Popen[str], log: Path) -> None:
    os.kill(int(said(log)[0]), signal.SIGKILL)
    task.communicate(timeout=20)
    assert task.returncode == 1
