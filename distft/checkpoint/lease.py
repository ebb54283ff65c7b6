"""The lease on a run folder: one owner at a time, who says so by a heartbeat.

``RUN/lease.json`` names the owner and never changes while he holds it; the heartbeat is its
modification time, so that it needs no space on a full disk and is read off the file server's clock,
not off two machines' clocks. It appears by a link, which fails if it is there. It is replaced or
removed only under a file lock (``RUN/.lease.lock``), which the kernel drops with its holder: two
processes that find the same dead owner cannot both take over.

Order at start: acquire, then ``Coordinator.abandon_staging``, then ``Coordinator.newest``. A former
owner that was only asleep then finds another token in the lease, and its staging folder gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from distft.common.errors import DistftError, UserError
from distft.common.files import parse_json, sync_folder, write_synced

LEASE = "lease.json"
FORMAT = 1
HEARTBEAT_S = 5.0
STALE_S = 60.0
_LOCK = ".lease.lock"
_LOCK_WAIT_S = 20.0
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_log = logging.getLogger(__name__)


class LeaseLost(DistftError):
    """Another process owns the run folder now: stop at once, write nothing more into it."""


@dataclass(frozen=True)
class Owner:
    """Who holds a run folder. ``machine`` tells apart hosts of one name, reboots and containers;
    ``start`` is the process's start, so that a reused pid is not mistaken for it; ``since`` unix seconds.
    """

    token: str
    host: str
    machine: str
    pid: int
    start: str
    user: str
    since: float
    format: int = FORMAT

    @classmethod
    def this_process(cls) -> Owner:
        """A new owner with a token of its own."""
        pid = os.getpid()
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
        return cls(secrets.token_hex(16), socket.gethostname(), _machine(), pid, process_start(pid) or "", user,
                   time.time())  # fmt: skip

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} of {self.user} on {self.host}, since {since}"


@dataclass(frozen=True)
class Held:
    """A lease as found: its owner (None if unreadable) and the last heartbeat, unix seconds of the file server."""

    owner: Owner | None
    heartbeat: float


class Lease:
    """A lease that is held. Made by ``acquire``; a context manager that releases it."""

    def __init__(self, path: Path, owner: Owner, heartbeat_s: float) -> None:
        self._path, self.owner = path, owner
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(heartbeat_s,), name="lease", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """The fencing token: written into every manifest, asked for before every commit."""
        return self.owner.token

    def still_mine(self) -> bool:
        """Whether the file names this owner now. Raises OSError if that cannot be found out."""
        held = _read(self._path)
        return held is not None and held.owner is not None and held.owner.token == self.token

    def require(self) -> None:
        """Raises LeaseLost unless ``still_mine``, naming who has it."""
        held = _read(self._path)
        owner = held.owner if held else None
        if owner is None or owner.token != self.token:
            raise LeaseLost(f"{self._path.parent} belongs to {owner or 'nobody'} now; this process ({self.owner}) "
                            "must not write into it any more")  # fmt: skip

    def release(self) -> None:
        """Stop the heartbeat and remove the file if it is still ours. A second call does nothing,
        nor does one in a forked child, which has not got the lease.
        """
        if self._ended.is_set() or os.getpid() != self.owner.pid:
            return
        self._ended.set()
        self._thread.join()
        try:
            if not self.still_mine():  # nor is anything left in what is another's
                return
            with _guard(self._path.parent):
                if self.still_mine():
                    self._path.unlink()
                    sync_folder(self._path.parent)
        except OSError as error:
            _log.warning("the lease %s could not be removed (%s): it goes stale by itself", self._path, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.release()

    def _beat(self, every_s: float) -> None:
        failing = False
        while not self._ended.wait(every_s):
            try:
                if not _touch(self._path, self.token):
                    _log.error("the lease %s is no longer ours: nothing more will be committed", self._path)
                    return
                failing = False
            except OSError as error:
                if not failing:
                    _log.warning("heartbeat of %s: %s", self._path, error)
                failing = True


def acquire(
    run_dir: Path,
    *,
    patience_s: float = 0.0,
    stale_s: float = STALE_S,
    heartbeat_s: float = HEARTBEAT_S,
) -> Lease:
    """Take the run folder, creating it if need be.

    A lease of a process of this machine that has ended is taken over at once; one of another machine
    when its heartbeat is older than ``stale_s``. ``patience_s``: how long to wait for that (a requeued
    job whose former node died needs about a minute). Raises UserError naming the owner, or saying
    why the folder cannot be written.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            with _guard(run_dir) as locked:
                taken, held = _take(run_dir, locked, stale_s)
        except OSError as error:
            what = f"the run folder cannot be written: {error}"
            raise UserError(what, where=str(run_dir), hint="give another: output_dir=runs/NAME") from error
        if taken is not None:
            return Lease(run_dir / LEASE, taken, heartbeat_s)
        if held is not None and time.monotonic() >= until:
            raise _refusal(run_dir, held, locked)
        time.sleep(min(1.0, max(0.01, until - time.monotonic())))


def look(run_dir: Path) -> Held | None:
    """Who holds the run folder now, for ``distft status``; None if nobody. Takes nothing."""
    return _read(run_dir / LEASE)


def living(run_dir: Path) -> Held | None:
    """``look``, but None too where the owner has ended, as far as that can be told without writing anything."""
    held = look(run_dir)
    return None if held is None or _dead(held, time.time() - held.heartbeat, STALE_S) else held


def refuse_if_held(run_dir: Path) -> None:
    """Raises the UserError that ``acquire`` would, as far as that can be told without writing anything."""
    held = living(run_dir)
    if held is not None:
        raise _refusal(run_dir, held, locked=True)


def is_lease(name: str) -> bool:
    """Whether a file of a run folder, by its name, is there for the lease alone."""
    return name == LEASE or name.startswith(".lease.")


def is_here(owner: Owner) -> bool:
    """Whether the owner's pid names a process of this machine (and of this PID namespace)."""
    return owner.host == socket.gethostname() and owner.machine == _machine()


def process_start(pid: int) -> str | None:
    """When a process of this machine started, in ticks since boot; None if it has ended."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return _portable_start(pid)


def _portable_start(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return ""  # it answered to signal 0: there, but hidden from us
    except psutil.Error:
        return ""


def _take(run_dir: Path, locked: bool, stale_s: float) -> tuple[Owner | None, Held | None]:
    """One try, under the guard: the new owner, or the lease that is in the way."""
    path = run_dir / LEASE
    held = _read(path)
    if held is not None:
        if not locked or not _dead(held, _age(run_dir, held), stale_s):
            return None, held
        _log.warning("taking over %s from an owner that is gone: %s", run_dir, held.owner or "unreadable")
        path.unlink(missing_ok=True)
    owner = Owner.this_process()
    temporary = run_dir / f".{LEASE}.{owner.token}.tmp"
    try:
        write_synced(temporary, json.dumps(asdict(owner), indent=1) + "\n")
        os.link(temporary, path)
    except FileExistsError:
        return None, _read(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(run_dir)
    return owner, None


def _dead(held: Held, age_s: float, stale_s: float) -> bool:
    owner = held.owner
    if owner is not None and is_here(owner):
        start = process_start(owner.pid)
        return start is None or bool(start and owner.start and start != owner.start)
    return age_s > stale_s


def _age(run_dir: Path, held: Held) -> float:
    """Seconds since the heartbeat, by the clock of the file server: that of a file made just now."""
    probe = run_dir / f".{LEASE}.{secrets.token_hex(6)}.probe"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        return os.fstat(descriptor).st_mtime - held.heartbeat
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


def _read(path: Path) -> Held | None:
    """The lease file; opening it makes a network file system ask its server. Raises OSError."""
    try:
        with open(path, "rb") as file:
            content, heartbeat = file.read(), os.fstat(file.fileno()).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Held(Owner(**parse_json(content)), heartbeat)
    except (ValueError, TypeError):
        return Held(None, heartbeat)


def _touch(path: Path, token: str) -> bool:
    """Renew the heartbeat of exactly the file that was read; False if it is not this token's."""
    try:
        with open(path, "rb") as file:
            if parse_json(file.read()).get("token") != token:
                return False
            os.utime(file.fileno())
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError):
        return False
    return True


def _refusal(run_dir: Path, held: Held, locked: bool) -> UserError:
    hint = "wait for it, stop it, or choose another output_dir"
    if not locked:
        hint += f"; this file system has no locks: if you are sure it is gone, remove {run_dir / LEASE}"
    who = str(held.owner) if held.owner else f"an owner that {LEASE} does not name (it is unreadable)"
    ago = max(0.0, time.time() - held.heartbeat)
    return UserError(f"another process writes this run: {who}; last heartbeat {ago:.0f} s ago",
                     where=str(run_dir), hint=hint)  # fmt: skip


@contextlib.contextmanager
def _guard(run_dir: Path) -> Iterator[bool]:
    """Alone among the processes that change this lease; yields False on a file system without locks."""
    descriptor = os.open(run_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield _lock(descriptor, run_dir)
    finally:
        os.close(descriptor)  # drops the lock


def _lock(descriptor: int, run_dir: Path) -> bool:
    until = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                what = "another process has been starting on this run folder for a while"
                raise UserError(what, where=str(run_dir), hint="try again, or look for a stopped process") from None
            time.sleep(0.02)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise
        else:
            return True


def _machine() -> str:
    """Boot and PID namespace: within one of these, a pid names one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"
