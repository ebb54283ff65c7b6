"""Ray on one node of a job: started by its command line, watched, and ended with everything that it started.

Every port is chosen by the system, so that two jobs on one node never meet; sockets, logs and the token lie in a
private folder on the node, which its guard clears away even where this process is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from distft.common.errors import EnvironmentFallsShort
from distft.groups.bundles import NODE_LABEL
from distft.launch.node import child
from distft.launch.node.network import Address
from distft.launch.on_ray import guard as ray_guard
from distft.launch.on_ray.agent_probe import refuse_strangers

_LONGEST_FOLDER = 38  # bytes; Ray's socket paths add 66 to "<folder>/r", and 107 is what a socket path may have
_STARTED = b"Ray runtime started"  # printed when the node is known to the cluster
_KEPT_TAIL = 256 * 1024  # bytes of each of Ray's own logs kept of a run that failed
_END_S = 6.0
_SHM_SHARE, _MEMORY_SHARE = 0.9, 0.3
_PORTS = (
    "node-manager-port", "object-manager-port", "min-worker-port", "max-worker-port", "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port",
)  # fmt: skip


def private_folder(scratch: str | None, token: str) -> Path:
    """A new folder (mode 0700) on the node's own disk with the token in it (0600).

    Sockets need a short path: where ``scratch``, or TMPDIR, has none, it is in /tmp. Raises OSError.
    """
    folder = None
    for place in (scratch, tempfile.gettempdir()):
        if place is not None and len(os.fsencode(place)) + len("/dft-12345678") <= _LONGEST_FOLDER:
            folder = Path(tempfile.mkdtemp(prefix="dft-", dir=place))
            break
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="dft-", dir="/tmp"))
    (folder / "t").mkdir(mode=0o700)
    with open(folder / "token", "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(token)
    return folder


class NodeRay:
    """As a context manager: ended, guarded and cleared away whatever happens inside."""

    def __init__(self, folder: Path, environment: Mapping[str, str], address: Address, number: int) -> None:
        self.folder, self.environment, self.ip, self.number = folder, dict(environment), address.ip, number
        self._output = folder / "ray.out"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.patience_s = _END_S  # how long Ray may take to end in order

    def __enter__(self) -> Self:
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", ray_guard.__file__, str(self.folder)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            cwd="/",
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._guard is not None
        try:
            if self._process is not None:
                child.end(self._process, self.patience_s)
        finally:
            ray_guard.end(str(self.folder))
            with contextlib.suppress(OSError):
                self._guard.communicate(b"done")

    def start(
        self,
        head_address: str | None,
        *,
        cpus: int,
        gpus: int,
        memory: int,
        spill: str | None,
        deadline: float,
        keep_on: Callable[[], None],
    ) -> str:
        """Starts it as the head (``head_address`` None) or joins; returns the cluster's address when this node is in.

        ``memory``: bytes of this node that the job may use. ``spill``: where objects go that do not fit.
        ``deadline``: by the monotonic clock. ``keep_on`` is called while it waits, and may raise.
        Raises EnvironmentFallsShort where it does not come up, or would let strangers run commands.
        """
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        command += ["--head", "--port=0", "--include-dashboard=false", "--no-monitor"] if head_address is None else []
        command += [f"--address={head_address}"] if head_address is not None else []
        command += [f"--{port}=0" for port in _PORTS]
        command += [f"--node-ip-address={self.ip}", f"--temp-dir={self.folder / 'r'}", f"--num-cpus={cpus}"]
        command += [f"--num-gpus={gpus}", f"--object-store-memory={object_store_bytes(memory)}"]
        command += [f"--labels={NODE_LABEL}={self.number}"]
        command += [f"--object-spilling-directory={spill}"] if spill is not None else []
        with open(self._output, "wb") as output:
            self._process = child.start(command, self.environment, output=output)
        self._wait(lambda: _STARTED in self._output.read_bytes(), "Ray", deadline, keep_on)
        session = self.folder / "r" / "session_latest"
        self._wait(lambda: bool(_port(session)), "Ray's agent", deadline, keep_on)
        refuse_strangers(self.ip, _port(session), f"node {self.number}")
        return head_address or (self.folder / "r" / "ray_current_cluster").read_text(encoding="ascii").strip()

    @property
    def ended(self) -> bool:
        """Whether Ray has left this node."""
        return self._process is not None and self._process.poll() is not None

    def last_lines(self, count: int = 12) -> list[str]:
        """What Ray's command printed last."""
        with contextlib.suppress(OSError):
            return self._output.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
        return []

    def keep_logs(self, target: Path) -> None:
        """The ends of Ray's own logs, which go with the private folder, to the run's."""
        with contextlib.suppress(OSError):
            target.mkdir(parents=True, exist_ok=True)
            for path in [self._output, *(self.folder / "r" / "session_latest" / "logs").glob("*")]:
                if path.is_file() and path.stat().st_size:
                    with open(path, "rb") as file:
                        file.seek(max(0, path.stat().st_size - _KEPT_TAIL))
                        (target / path.name).write_bytes(file.read())

    def _wait(self, done: Callable[[], bool], what: str, deadline: float, keep_on: Callable[[], None]) -> None:
        while not done():
            if self.ended:
                said = "\n    ".join(self.last_lines())
                raise EnvironmentFallsShort(f"{what} does not start:\n    {said}", where=f"node {self.number}")
            if time.monotonic() > deadline:
                raise EnvironmentFallsShort(
                    f"{what} is not up within its deadline",
                    where=f"node {self.number}",
                    hint="recovery.start_deadline_s is the deadline; Ray's logs are kept",
                )
            keep_on()
            time.sleep(0.1)


def object_store_bytes(memory: int) -> int:
    """A third of the job's memory on this node, as far as shared memory has room; Ray takes no less than 75 MiB."""
    try:
        shared = shutil.disk_usage("/dev/shm").free
    except OSError:
        shared = memory
    return max(80 * 1024**2, min(int(memory * _MEMORY_SHARE), int(shared * _SHM_SHARE)))


def _port(session: Path) -> int:
    """Where the agent listens, 0 while it does not say."""
    for path in session.glob("dashboard_agent_listen_port_*"):
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text(encoding="ascii"))
    return 0
