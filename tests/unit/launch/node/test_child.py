"""Children end with the launcher, and Slurm's USR1 does not reach them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from distft.launch.node import child
from distft.launch.node.driver import Driver

# A launcher that starts a child which starts one of its own; each says the id of what it started, and waits.
LAUNCHER = """
import sys, time
from distft.launch.node import child
inner = "import subprocess; p = subprocess.Popen(['sleep', '60']); print('grandchild', p.pid, flush=True); p.wait()"
process = child.start([sys.executable, "-c", inner], {"PATH": "/usr/bin:/bin"})
print("child", process.pid, flush=True)
time.sleep(60)
"""


def gone(pid: int, within_s: float = 5.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_the_kernel_ends_a_child_whose_launcher_was_killed(root: Path) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert launcher.stdout is not None
    said = dict(launcher.stdout.readline().split() for _ in range(2))  # on a busy machine either comes first
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    assert gone(int(said["child"]))
    assert gone(int(said["grandchild"])) is False, "Ray's own processes are the guard's business"
    os.kill(int(said["grandchild"]), signal.SIGKILL)


def test_the_whole_group_ends() -> None:
    inner = (
        "import signal, subprocess, time; signal.signal(15, signal.SIG_IGN); p = subprocess.Popen(['sleep', '60']); "
    )
    inner += "print(p.pid, flush=True); time.sleep(60)"
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as output:
        process = child.start([sys.executable, "-c", inner], dict(os.environ), output=output)
    with os.fdopen(reading) as said:
        grandchild = int(said.readline())
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    started = time.monotonic()
    child.end(process, 0.3)
    assert time.monotonic() - started < 30, "both would sleep for a minute"
    assert gone(grandchild)


def test_usr1_is_not_for_them() -> None:
    inner = "import signal, subprocess; print(signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN)"
    with Driver([sys.executable, "-c", inner], dict(os.environ)) as driver:
        assert driver.wait(20)
    assert driver.last_lines == ["True"]


def test_the_drivers_last_lines_are_remembered_and_its_status_kept() -> None:
    inner = "import sys; [print('line', i) for i in range(100)]; sys.exit(3)"
    with Driver([sys.executable, "-c", inner], dict(os.environ)) as driver:
        assert driver.wait(20)
    assert driver.returncode == 3
    assert driver.last_lines[-1] == "line 99"
    assert len(driver.last_lines) < 100
