from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint import lease as module
from distft.checkpoint.lease import Lease, LeaseLost, acquire, look, process_start
from distft.common.errors import UserError

# Tells what became of it on a line, then holds the lease until its input ends.
CONTENDER = """
import sys
from pathlib import Path
from distft.checkpoint.lease import acquire
from distft.common.errors import UserError
print("ready", flush=True)
sys.stdin.readline()
try:
    lease = acquire(Path(sys.argv[1]))
except UserError as error:
    print("refused", str(error).splitlines()[0], flush=True)
    sys.exit(error.exit_status)
print("won", lease.token, flush=True)
sys.stdin.readline()
lease.release()
"""


class Contenders:
    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def start(self, run: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", CONTENDER, str(run)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)  # fmt: skip
        self.started.append(process)
        return process

    def say(self, *processes: subprocess.Popen[str]) -> None:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def hear(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()


@pytest.fixture
def contenders() -> Iterator[Contenders]:
    all_of_them = Contenders()
    yield all_of_them
    for process in all_of_them.started:
        process.kill()
        process.wait()


def elsewhere(run: Path, **changes: Any) -> None:
    """Make the lease one of another machine."""
    path = run / "lease.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "node7", "machine": "other boot", **changes}))


def age(run: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(run / "lease.json", (then, then))


def test_acquire_and_release(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    with acquire(run) as lease:
        assert lease.still_mine()
        lease.require()
        held = look(run)
        assert held is not None
        assert held.owner == lease.owner
        assert held.owner.pid == os.getpid()
    assert look(run) is None
    assert [path.name for path in run.iterdir()] == [".lease.lock"]
    lease.release()


def test_a_second_start_is_refused_naming_the_owner(tmp_path: Path) -> None:
    with acquire(tmp_path) as lease:
        with pytest.raises(UserError) as caught:
            acquire(tmp_path)
        text = str(caught.value)
        assert f"process {os.getpid()} of {lease.owner.user} on {lease.owner.host}, since 20" in text
        assert str(tmp_path) in text
        assert caught.value.exit_status == 2
        assert lease.still_mine()


@pytest.mark.parametrize("stale", [False, True], ids=["free", "left by a killed owner"])
def test_of_racing_processes_exactly_one_wins(tmp_path: Path, contenders: Contenders, stale: bool) -> None:
    racers = [contenders.start(tmp_path) for _ in range(5)]
    for racer in racers:
        assert contenders.hear(racer) == "ready"
    if stale:
        first = racers.pop()
        contenders.say(first)
        assert contenders.hear(first).startswith("won")
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert look(tmp_path) is not None
    contenders.say(*racers)
    said = [contenders.hear(racer) for racer in racers]
    assert sum(line.startswith("won") for line in said) == 1, said
    winner = racers[next(i for i, line in enumerate(said) if line.startswith("won"))]
    assert all(f"process {winner.pid} " in line for line in said if line.startswith("refused")), said
    contenders.say(winner)
    assert sorted(racer.wait(20) for racer in racers) == [0] + [2] * (len(racers) - 1)
    assert look(tmp_path) is None


def test_many_rounds_over_a_dead_owner(tmp_path: Path) -> None:
    """Threads race as processes do: the file lock belongs to the open file, not to the process."""

    def attempt(run: Path) -> Lease | None:
        try:
            return acquire(run)
        except UserError:
            return None

    with ThreadPoolExecutor(8) as threads:
        for number in range(20):
            run = tmp_path / str(number)
            acquire(run).release()
            (run / "lease.json").write_text(json.dumps({**vars(module.Owner.this_process()), "pid": 2**22 + 5}))
            won = [lease for lease in threads.map(attempt, [run] * 8) if lease is not None]
            assert len(won) == 1
            won[0].release()


def test_an_owner_that_was_killed_is_replaced_at_once(tmp_path: Path, contenders: Contenders) -> None:
    owner = contenders.start(tmp_path)
    contenders.say(owner)
    assert [contenders.hear(owner).split()[0] for _ in range(2)] == ["ready", "won"]
    with pytest.raises(UserError, match=f"process {owner.pid} "):
        acquire(tmp_path)
    os.kill(owner.pid, signal.SIGSTOP)  # stopped is not dead
    with pytest.raises(UserError, match=f"process {owner.pid} "):
        acquire(tmp_path)
    owner.kill()
    while process_start(owner.pid) is not None:  # a zombie counts as dead: nobody has waited for it here
        time.sleep(0.01)
    assert owner.returncode is None
    with acquire(tmp_path) as lease:
        assert lease.still_mine()


def test_a_reused_pid_is_not_mistaken_for_the_owner(tmp_path: Path) -> None:
    acquire(tmp_path).release()
    gone = {**vars(module.Owner.this_process()), "start": "12345"}
    (tmp_path / "lease.json").write_text(json.dumps(gone))
    with acquire(tmp_path) as lease:
        assert lease.still_mine()


@pytest.mark.parametrize(("seconds", "free"), [(30, False), (90, True), (-500, False)])
def test_another_machines_owner_is_judged_by_its_heartbeat(tmp_path: Path, seconds: float, free: bool) -> None:
    former = acquire(tmp_path)
    elsewhere(tmp_path, pid=2**22 + 5)  # a pid of another machine says nothing here
    age(tmp_path, seconds)
    if not free:
        with pytest.raises(UserError, match="on node7"):
            acquire(tmp_path)
        former.release()
        return
    with acquire(tmp_path) as lease:
        assert lease.still_mine()
        assert not former.still_mine()


def test_a_former_owner_that_wakes_up_knows_and_leaves_the_new_one_alone(tmp_path: Path) -> None:
    former = acquire(tmp_path, heartbeat_s=0.05)
    elsewhere(tmp_path, token="former, seen from elsewhere")
    age(tmp_path, 90)
    with acquire(tmp_path) as lease:
        with pytest.raises(LeaseLost, match=f"belongs to process {os.getpid()}"):
            former.require()
        former.release()
        assert lease.still_mine()
    with pytest.raises(LeaseLost, match="belongs to nobody"):
        former.require()


def test_patience_waits_for_a_lease_to_go_stale(tmp_path: Path) -> None:
    acquire(tmp_path).release()
    (tmp_path / "lease.json").write_text(json.dumps({**vars(module.Owner.this_process()), "machine": "other"}))
    since = time.monotonic()
    age(tmp_path, 57)
    with pytest.raises(UserError):
        acquire(tmp_path)
    with acquire(tmp_path, patience_s=30):
        assert time.monotonic() - since > 2.9


def test_the_heartbeat_renews_the_lease_and_needs_no_space(tmp_path: Path) -> None:
    with acquire(tmp_path, heartbeat_s=0.05):
        content = (tmp_path / "lease.json").read_bytes()
        age(tmp_path, 90)
        until = time.monotonic() + 10
        while time.time() - (tmp_path / "lease.json").stat().st_mtime > 5:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert (tmp_path / "lease.json").read_bytes() == content


def test_a_heartbeat_that_finds_another_owner_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lease = acquire(tmp_path, heartbeat_s=0.02)
    with caplog.at_level(logging.ERROR):
        elsewhere(tmp_path, token="another")
        lease._thread.join(10)
    assert not lease._thread.is_alive()
    assert "no longer ours" in caplog.text


@pytest.mark.parametrize(("seconds", "free"), [(5, False), (90, True)])
def test_an_unreadable_lease(tmp_path: Path, seconds: float, free: bool) -> None:
    (tmp_path / "lease.json").write_text("{torn")
    age(tmp_path, seconds)
    if free:
        acquire(tmp_path).release()
    else:
        with pytest.raises(UserError, match="unreadable"):
            acquire(tmp_path)


def test_a_file_system_without_locks_takes_nothing_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    with acquire(tmp_path) as lease:
        assert lease.still_mine()
        with pytest.raises(UserError, match=r"has no locks: .* remove .*lease\.json"):
            acquire(tmp_path)
        elsewhere(tmp_path)
        age(tmp_path, 1000)
        with pytest.raises(UserError, match="has no locks"):
            acquire(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as caught:
        acquire(tmp_path / "file" / "run")
    assert caught.value.where == str(tmp_path / "file" / "run")


def test_a_forked_child_does_not_give_the_lease_away(tmp_path: Path) -> None:
    with acquire(tmp_path) as lease:
        code = (
            "import os, sys\nfrom pathlib import Path\nfrom distft.checkpoint.lease import acquire\n"
            "lease = acquire(Path(sys.argv[1]))\n"
            "if os.fork() == 0:\n    lease.release(); os._exit(0)\n"
            "os.wait()\nassert lease.still_mine()\nlease.release()\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "other")], check=False, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert lease.still_mine()
