"""A folder in memory is gone with its maker, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from distft.groups.memory_folder import MEMORY, clear, memory_path

MAKER = """
import sys
from pathlib import Path
from distft.groups.memory_folder import MemoryFolder
folder = MemoryFolder(Path(sys.argv[1])).path
(folder / "step").mkdir()
(folder / "step" / "states").write_text("bytes")
print("made", flush=True)
sys.stdin.read()
"""
WITHIN_S = 60.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def maker(folder: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", MAKER, str(folder)]
    started = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == b"made\n"
    return started


def guard(folder: Path) -> psutil.Process:
    (found,) = [
        one for one in psutil.process_iter() if one.pid > 1 and str(folder) in words(one) and "-S" in words(one)
    ]
    return found


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_is_only_this_users_and_goes_with_its_maker(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "distft-1"
    made = maker(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert guard(folder).ppid() != made.pid, "Ray kills the children of a worker with it"
    assert clear(tmp_path) == [], "somebody has it"
    os.kill(made.pid, number)
    made.wait()
    wait_for(lambda: not folder.exists(), "the guard has removed it")


def test_what_maker_and_guard_left_that_were_both_killed_goes_with_the_next_start(tmp_path: Path) -> None:
    folder, stranger = tmp_path / "distft-1", tmp_path / "other"
    stranger.mkdir()
    made = maker(folder)
    guard(folder).kill()
    made.kill()
    made.wait()
    wait_for(lambda: not [one for one in psutil.process_iter() if str(folder) in words(one)], "both have ended")
    assert (folder / "step" / "states").exists()
    again = maker(tmp_path / "distft-2")
    assert not folder.exists()
    again.kill()
    again.wait()
    wait_for(lambda: list(tmp_path.iterdir()) == [stranger], "the guard has removed it, and nothing else")


def test_it_lies_in_memory() -> None:
    assert memory_path("abc") == Path("/dev/shm/distft-abc")
    assert {disk.fstype for disk in psutil.disk_partitions(all=True) if disk.mountpoint == str(MEMORY)} == {"tmpfs"}


def test_a_lock_that_is_a_pipe_holds_nobody_up(tmp_path: Path) -> None:
    folder = tmp_path / memory_path("strange").name
    folder.mkdir()
    os.mkfifo(folder / ".lock")
    assert clear(tmp_path) == [folder]
