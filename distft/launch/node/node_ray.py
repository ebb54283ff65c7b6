"""Ray on one node of a job: started by its command line, watched, and ended with everything that it started.

Every port is chosen by the system, so that two jobs on one node never meet.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from distft.common.errors import EnvironmentFallsShort
from distft.common.files import last_lines
from distft.common.waiting import wait_until
from distft.groups.bundles import NODE_LABEL
from distft.launch.node import child
from distft.launch.node.network import Address
from distft.launch.on_ray import guard
from distft.launch.on_ray.agent_probe import refuse_strangers
from distft.launch.on_ray.private import PrivateRay

_STARTED = b"Ray runtime started"  # printed when the node is known to the cluster
_TOO_SLOW = b"The current node timed out during startup"  # Ray's own 30 s, which no setting lengthens
_END_S = 6.0
_LAST_LINES = 12
_SHM_SHARE, _MEMORY_SHARE = 0.9, 0.3
_PORTS = (
    "node-manager-port", "object-manager-port", "min-worker-port", "max-worker-port", "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port",
)  # fmt: skip


class NodeRay(PrivateRay):
    """As a context manager: Ray is ended and cleared away whatever happens inside."""

    def __init__(self, folder: Path, environment: Mapping[str, str], address: Address, number: int) -> None:
        super().__init__(folder)
        self.environment, self.ip, self.number = dict(environment), address.ip, number
        self._output = folder / "ray.out"
        self._process: subprocess.Popen[bytes] | None = None
        self.patience_s = _END_S  # how long Ray may take to end in order

    def __exit__(self, *_: object) -> None:
        try:
            if self._process is not None:
                child.end(self._process, self.patience_s)
        finally:
            super().__exit__()

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
        say: Callable[[str], None],
    ) -> str:
        """Starts it as the head (``head_address`` None) or joins; returns the cluster's address when this node is in.

        ``memory``: bytes of this node that the job may use. ``spill``: where objects go that do not fit.
        ``deadline``: by the monotonic clock. ``keep_on`` is called while it waits, and may raise; ``say`` is told
        when Ray has given itself up as too slow, as on a busy node that reads it for the first time, and is started
        once more.
        Raises EnvironmentFallsShort where it does not come up, or would let strangers run commands.
        """
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        command += ["--head", "--port=0", "--include-dashboard=false", "--no-monitor"] if head_address is None else []
        command += [f"--address={head_address}"] if head_address is not None else []
        command += [f"--{port}=0" for port in _PORTS]
        command += [f"--node-ip-address={self.ip}", f"--temp-dir={self.temporary}", f"--num-cpus={cpus}"]
        command += [f"--num-gpus={gpus}", f"--object-store-memory={object_store_bytes(memory)}"]
        command += [f"--labels={NODE_LABEL}={self.number}"]
        command += [f"--object-spilling-directory={spill}"] if spill is not None else []
        try:
            self._start(command, deadline, keep_on)
        except EnvironmentFallsShort as error:
            if not self.ended or _TOO_SLOW not in self._output.read_bytes():
                raise
            say(f"{error.what}\nit is started once more")
            guard.end_processes(str(self.folder))
            shutil.rmtree(self.temporary, ignore_errors=True)
            self._start(command, deadline, keep_on)
        self._wait(lambda: bool(_port(self.session)), "Ray's agent", deadline, keep_on)
        refuse_strangers(self.ip, _port(self.session), f"node {self.number}")
        return head_address or (self.temporary / "ray_current_cluster").read_text(encoding="ascii").strip()

    @property
    def ended(self) -> bool:
        """Whether Ray has left this node."""
        return self._process is not None and self._process.poll() is not None

    def last_lines(self) -> list[str]:
        """What Ray's command printed last."""
        return last_lines(self._output, _LAST_LINES)

    def _start(self, command: Sequence[str], deadline: float, keep_on: Callable[[], None]) -> None:
        with open(self._output, "wb") as output:
            self._process = child.start(command, self.environment, output=output)
        self._wait(lambda: _STARTED in self._output.read_bytes(), "Ray", deadline, keep_on)

    def _wait(self, done: Callable[[], bool], what: str, deadline: float, keep_on: Callable[[], None]) -> None:
        def up() -> bool:
            if done():
                return True
            if self.ended:
                said = "\n    ".join(self.last_lines())
                raise EnvironmentFallsShort(f"{what} does not start:\n    {said}", where=f"node {self.number}")
            keep_on()
            return False

        if not wait_until(up, deadline - time.monotonic()):
            raise EnvironmentFallsShort(
                f"{what} is not up within its deadline",
                where=f"node {self.number}",
                hint="recovery.start_deadline_s is the deadline; Ray's logs are kept",
            )


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
