"""Processes that are killed at a system call of one's choice, and what a lost machine takes with it besides.

strace is attached to a process and kills it as it enters the n-th call of a name; that call is not made.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Every call that changes files or folders, or brings changes to the disk. strace leaves out those that a machine lacks.
CHANGING = (
    "open", "openat", "creat", "write", "writev", "pwrite64", "pwritev", "ftruncate", "truncate", "fallocate",
    "fsync", "fdatasync", "sync_file_range", "sendfile", "copy_file_range", "rename", "renameat", "renameat2", "mkdir",
    "mkdirat", "rmdir", "unlink", "unlinkat", "link", "linkat", "symlink", "symlinkat", "chmod", "fchmod", "fchmodat",
)  # fmt: skip
_LINE = re.compile(r"(?:(\d+) +)?(\w+)\((.*)")
_PATH = re.compile(r"\d+<([^>]*)>|\"((?:[^\"\\]|\\.)*)\"")


@dataclass(frozen=True)
class Cut:
    """The n-th call of this name, from 1."""

    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} {self.number}"


@dataclass(frozen=True)
class Seen:
    """A call of the log: its name, its number among those of its name, the paths in it, and whether it was done."""

    cut: Cut
    paths: tuple[str, ...]
    text: str
    done: bool

    @property
    def changes(self) -> bool:
        """Opening a file to read it changes nothing."""
        return "open" not in self.cut.call or any(flag in self.text for flag in ("O_CREAT", "O_TRUNC"))


def may_trace() -> str:
    """Why nothing can be traced here; empty where it can."""
    if shutil.which("strace") is None:
        return "there is no strace (Debian: apt-get install strace)"
    with subprocess.Popen(["sleep", "60"]) as sleeper, tempfile.TemporaryDirectory() as folder:
        try:  # by its id, as here: a machine may let a process trace its children alone
            with traced(sleeper.pid, Path(folder, "log")):
                return ""
        except AssertionError as error:
            return f"strace may not trace here: {error}"
        finally:
            sleeper.kill()


@contextlib.contextmanager
def traced(pid: int, log: Path, cut: Cut | None = None, *, threads: bool = False) -> Iterator[None]:
    """strace looks at the process's main thread until it or the block ends; with ``threads`` at all of them, whose
    calls are counted apart."""
    inject = ["-e", f"inject={cut.call}:signal=KILL:when={cut.number}"] if cut else []
    inject += ["-f"] if threads else []
    words = ["strace", "-q", "-y", "-s", "0", "-e", f"trace={','.join('?' + name for name in CHANGING)}", *inject]
    strace = subprocess.Popen([*words, "-o", str(log), "-p", str(pid)], stderr=subprocess.PIPE)
    try:
        while f"TracerPid:\t{strace.pid}\n" not in Path(f"/proc/{pid}/status").read_text():
            assert strace.poll() is None, strace.communicate()[1].decode()
            time.sleep(0.001)
        yield
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            strace.wait(0 if cut is None else 5)
        if strace.poll() is None:
            strace.send_signal(signal.SIGINT)  # lets go of the process
        strace.communicate()


def forked(work: Callable[[], None], log: Path, cut: Cut | None = None) -> bool:
    """Whether a child that does this work came to its end, traced, or was killed at the cut."""
    waiting, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(go)
            os.read(waiting, 1)
            work()
            status = 0
        finally:
            os._exit(status)
    os.close(waiting)
    with traced(pid, log, cut):
        os.write(go, b".")
        os.close(go)
        status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == 0


def calls(log: Path) -> list[Seen]:
    """The calls of a log, in their order."""
    counts: Counter[tuple[str, str]] = Counter()
    found = []
    for line in log.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None or match[2] not in CHANGING:
            continue
        counts[match[1], match[2]] += 1
        paths: list[str] = []
        for path in (found[0] or found[1] for found in _PATH.findall(match[3])):
            if path:  # a relative one is below the folder that was named before it
                paths.append(path if path.startswith("/") or not paths else f"{paths.pop()}/{path}")
        done = re.search(r"= \d+", match[3]) is not None
        found.append(Seen(Cut(match[2], counts[match[1], match[2]]), tuple(paths), match[3], done))
    return found


def tear_unsynced(log: Path, below: Path) -> list[Path]:
    """Does what a power cut may do: of each file below a folder with content that was never synced, half is gone."""
    unsynced: set[str] = set()
    for seen in calls(log):
        if not seen.done:
            continue
        if "write" in seen.cut.call or "truncate" in seen.cut.call:
            unsynced |= {path for path in seen.paths[:1] if Path(path).is_relative_to(below)}
        elif "sync" in seen.cut.call:
            unsynced.discard(seen.paths[0])
        elif "rename" in seen.cut.call:
            old, new = seen.paths[-2:]
            moved = {path for path in unsynced if Path(path).is_relative_to(old)}
            unsynced = (unsynced - moved) | {new + path.removeprefix(old) for path in moved}
    torn = [Path(path) for path in sorted(unsynced) if Path(path).is_file()]
    for path in torn:
        os.truncate(path, path.stat().st_size // 2)
    return torn
