"""What the launchers of the head and of the other nodes have in common."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from distft.common.errors import EnvironmentFallsShort
from distft.launch.node.detached import Life
from distft.launch.node.ending import Why
from distft.launch.node.environment import node_environment
from distft.launch.node.files import NodeFiles
from distft.launch.node.job import Job, resources
from distft.launch.node.network import Address, node_address
from distft.launch.node.node_ray import NodeRay
from distft.launch.on_ray.private import private_folder

POLL_S = 0.5
# Of the time between Slurm's SIGTERM and its SIGKILL (KillWait) for the driver; the rest is for clearing away.
TERM_SHARE = 0.5
LEAVE_S = 20.0  # how long the others may take to leave once it is said how it ended


class Heard:
    """The signals that have come, by way of the task that Slurm started."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.announced = False  # USR1: the job's end is near
        self.terminated: float | None = None  # SIGTERM or SIGINT, when

    def listen(self) -> None:
        """From now on they end nothing by themselves."""
        signal.signal(signal.SIGUSR1, self._usr1)
        signal.signal(signal.SIGTERM, self._term)
        signal.signal(signal.SIGINT, self._term)

    @property
    def any(self) -> bool:
        """Whether the attempt is to end."""
        return self.announced or self.terminated is not None or self.abandoned

    @property
    def abandoned(self) -> bool:
        """Whether Slurm has killed the task: there is only the node to be cleared."""
        return self._life.over

    @property
    def why(self) -> Why:
        """What made it stop."""
        return "usr1" if self.announced else "terminated" if self.any else ""

    def _usr1(self, *_: object) -> None:
        self.announced = True

    def _term(self, *_: object) -> None:
        self.terminated = self.terminated or time.monotonic()


class NodeLog:
    """``RUN/logs/node-<n>.log``; what is for everyone goes to the job's output too."""

    def __init__(self, job: Job) -> None:
        self._who = f"{job.launch.name} {job.name}"
        path = job.run_dir / "logs" / f"node-{job.number}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115 (lives as long as the process)

    def say(self, text: str, *, loud: bool = False) -> None:
        """A line of the log. A full disk must not keep a node from ending in order."""
        with contextlib.suppress(OSError):
            self._file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {self._who}: {text}\n")
        if loud:
            with contextlib.suppress(OSError):
                print(f"distft: {text}", flush=True)


class NodePart:
    """What head and others have in common."""

    def __init__(self, job: Job, log: NodeLog, heard: Heard) -> None:
        self.job, self.log, self.heard, self.files = job, log, heard, NodeFiles(job.launch)
        self.deadline = time.monotonic() + job.recipe.recovery.start_deadline_s
        self._ends_since: float | None = None

    def address(self, head: str | None) -> Address:
        """This node's address; see ``node_network``."""
        others = [name for name in self.job.names if name != self.job.name]
        return node_address(self.job.cluster.network.interface, name=self.job.name, others=others, head=head)

    def ray(self, stack: contextlib.ExitStack, address: Address) -> NodeRay:
        """Ray on this node, not started yet, with its private folder; gone when the stack is left."""
        scratch = self.job.cluster.scratch
        try:
            folder = private_folder(scratch, self.files.token())
        except OSError as error:
            raise EnvironmentFallsShort(
                f"no temporary folder on {self.job.name}: {error}",
                where="scratch",
                hint="name a folder on the nodes' own disks that you can write",
            ) from None
        environment = node_environment(os.environ, self.job.cluster, address, folder, folder / "token")
        self.log.say(f"address {address.ip} on {address.interface}, private folder {folder}")
        return stack.enter_context(NodeRay(folder, environment, address, self.job.number))

    def start(self, ray: NodeRay, head_address: str | None, keep_on: Callable[[], None]) -> str:
        """Starts Ray with what Slurm has given of this node; returns the cluster's address."""
        cpus, gpus, memory = resources(os.environ, self.job.cluster)
        self.log.say(f"starting Ray with {cpus} CPUs, {gpus} GPUs, {memory / 2**30:.1f} GiB")
        address = ray.start(
            head_address,
            cpus=cpus,
            gpus=gpus,
            memory=memory,
            spill=self.job.cluster.scratch,
            deadline=self.deadline,
            keep_on=keep_on,
            say=self.log.say,
        )
        self.log.say(f"Ray is up at {address}")
        return address

    def leave(self, ray: NodeRay, *, failed: bool) -> None:
        """Before Ray ends on this node: keeps its logs, of an attempt that failed. Where SIGKILL is near, nothing
        counts but that the node is left clean."""
        if self.heard.abandoned or self.files.slurm_ends_it():
            ray.patience_s = 0.0
        elif failed:
            ray.keep_logs(self.job.run_dir / "logs" / "ray" / f"node-{self.job.number}")

    @property
    def out_of_time(self) -> bool:
        """Whether Slurm ends the job and its patience is nearly at its end. A job that is only to make room for
        another within a grace has all of the grace: at its end Slurm ends it."""
        if self.heard.abandoned:
            return True
        if self.heard.terminated is None:
            return False
        if self._ends_since is None and self.files.slurm_ends_it():
            self._ends_since = time.monotonic()
        return self._ends_since is not None and time.monotonic() - self._ends_since > TERM_SHARE * self.job.kill_wait
