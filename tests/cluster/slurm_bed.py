"""Slurm itself on the nodes of a bed: munged and slurmctld on its login node, one slurmd on each other one.

``bed.env`` makes Slurm's commands of this machine (sbatch, srun, squeue, scontrol, scancel) those of the
bed; in the nodes they are so without it, as /etc/slurm there is the bed's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster.bed import BedFailed, Node, Nodes, Process, environment
from tests.cluster.family import Family

DEFAULT_PARTITION = "main"
SHORT_PARTITION = "short"  # at most two minutes
SPARE_PARTITION = "spare"  # its jobs make room, after a grace, for those of the next
URGENT_PARTITION = "urgent"
FINAL = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
)

_TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "mknod")
_UP_S = 30.0
_POLL_S = 0.2
_NODE_DOWN_S = 300  # until the controller takes a silent node for dead: no test's load may be mistaken for that


def why_not() -> str | None:
    """Why Slurm cannot run on this machine, None if it can."""
    path = environment()["PATH"]
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=path) is None]
    return f"not installed (slurm-wlm, munge): {', '.join(missing)}" if missing else None


class SlurmBed:
    """A Slurm cluster on the nodes; a context manager.

    ``cpus``, ``gpus``: what a node says it has. ``kill_wait``: seconds from SIGTERM to SIGKILL. ``requeue_delay``:
    seconds after which a requeued job may start again; also how long a step's credential is good for.
    ``preempt_grace``: seconds from SIGTERM to the end of a job of SPARE_PARTITION that makes room.
    ``node_down``: seconds of silence after which a node is DOWN.
    """

    def __init__(
        self,
        nodes: Nodes,
        *,
        cpus: int = 8,
        gpus: int = 2,
        memory_mb: int = 16_000,
        kill_wait: int = 10,
        requeue_delay: int = 10,
        preempt_grace: int = 20,
        node_down: int = _NODE_DOWN_S,
    ) -> None:
        self.nodes = nodes
        self._cpus = cpus
        self._gpus = gpus
        self._memory_mb = memory_mb
        self._kill_wait = kill_wait
        self._requeue_delay = requeue_delay
        self._preempt_grace = preempt_grace
        self._node_down = node_down
        self._folder = nodes.state / "slurm"
        self._families: list[Family] = []
        self._closing = contextlib.ExitStack()
        self.env = environment() | {"SLURM_CONF": str(self._folder / "etc" / "slurm.conf")}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop)
            self._configure()
            self._start("munged", self.nodes.login, self._munged())
            self._until(self._socket.exists, "munged does not listen")
            self._start("slurmctld", self.nodes.login, ["slurmctld", "-D", "-c", "-f", self.env["SLURM_CONF"]])
            for node in self.nodes:
                self.start_slurmd(node)
            self._until(self._all_idle, "not all nodes are up")
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    # ---- jobs

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command of this machine as a user of the cluster would. Raises BedFailed as ``Node.run`` does."""
        words = [str(word) for word in argv]
        try:
            done = subprocess.run(
                words,
                env=self.env | dict(env or {}),
                cwd=cwd or self.nodes.folder,
                timeout=timeout,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise BedFailed(f"{words!r} took longer than {timeout} s\n{late.stdout!r}\n{late.stderr!r}") from None
        if check and done.returncode:
            raise BedFailed(f"{words!r} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    @property
    def state_files(self) -> Path:
        """Where the controller keeps what it knows of jobs: their scripts, and the variables they are given."""
        return self._folder / "state"

    def sbatch(self, arguments: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> str:
        """Submits a job with sbatch's own arguments; its number."""
        return self.run(["sbatch", "--parsable", *arguments], env=env).stdout.strip().partition(";")[0]

    def job(self, job_id: str) -> dict[str, str]:
        """What ``scontrol show job`` says: JobState, ExitCode, Reason, Restarts, NodeList, ..."""
        shown = self.run(["scontrol", "--oneliner", "show", "job", job_id]).stdout
        fields = (word.partition("=") for word in shown.splitlines()[0].split() if "=" in word)
        return {name: value for name, _, value in fields}

    def state(self, job_id: str) -> str:
        """PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, TIMEOUT, ...; of an array the states, with commas between."""
        words = ["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T"]
        return ",".join(sorted(set(self.run(words).stdout.split())))

    def wait(self, job_id: str, timeout: float) -> str:
        """Waits until the job has ended for good; its state. Raises BedFailed, with the queue, if it does not."""
        return self.wait_for(job_id, FINAL, timeout)

    def wait_for(self, job_id: str, states: str | frozenset[str], timeout: float) -> str:
        """Waits until the job is in one of these states; which."""
        wanted = frozenset({states}) if isinstance(states, str) else states
        state = ""

        def reached() -> bool:
            nonlocal state
            state = self.state(job_id)
            return set(state.split(",")) <= wanted

        self._until(reached, f"job {job_id} is not {sorted(wanted)}", timeout)
        return state

    def end_in(self, job_id: str, seconds: int) -> None:
        """Moves a running job's time limit: it is over in so many seconds (limits are otherwise whole minutes).

        Slurm looks every 30 s, so its signals come up to that much later.
        """
        self.run(["scontrol", "update", f"JobId={job_id}", f"EndTime=now+{seconds}"])

    def processes(self, node: Node) -> list[Process]:
        """What runs in the node that is not Slurm's own daemon: what jobs have, or have left."""
        own = [process for family in self._families if family.node is node for process in family.processes()]
        return [process for process in own if process.command != " ".join(self._slurmd(node))]

    def start_slurmd(self, node: Node) -> None:
        """Starts a node's daemon, at first or again."""
        if Path("/etc/slurm").is_dir():
            node.run(["mount", "--no-mtab", "--bind", self._folder / "etc", "/etc/slurm"])
        self._start(f"slurmd-{node.name}", node, self._slurmd(node))

    def stop_slurmd(self, node: Node) -> None:
        """Kills a node's daemon; what its jobs run stays."""
        for process in node.processes():
            if process.command == " ".join(self._slurmd(node)):
                os.kill(process.host_pid, signal.SIGKILL)

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        logs = {path.name: path for path in sorted(self._folder.glob("*.log"))}
        # What a daemon prints is what it logs, once it has a log.
        ends = [path for name, path in logs.items() if not name.endswith(".out.log") or f"{name[:-8]}.log" not in logs]
        return "\n".join(f"==> {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in ends)

    # ---- making it

    @property
    def _socket(self) -> Path:
        return self._folder / "munge" / "socket"

    def _munged(self) -> list[str]:
        folder = self._folder / "munge"
        files = {"key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed", "socket": "socket"}
        return ["munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in files.items())]

    def _configure(self) -> None:
        for name in ("etc", "munge", "state", *(f"spool-{node.name}" for node in self.nodes)):
            (self._folder / name).mkdir(parents=True)
        self._folder.chmod(0o711)
        (self._folder / "munge").chmod(0o755)
        key = self._folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        devices = [self._folder / f"gpu{number}" for number in range(self._gpus)]
        for device in devices:
            subprocess.run(["mknod", device, "c", "1", "3"], check=True)
        etc = self._folder / "etc"
        names = ",".join(node.name for node in self.nodes)
        files = f"{self._folder}/gpu[0-{self._gpus - 1}]"
        gres = [f"NodeName={names} Name=gpu File={files}"] if self._gpus else []
        (etc / "gres.conf").write_text("\n".join(["AutoDetect=off", *gres, ""]))
        (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        (etc / "slurm.conf").write_text("\n".join([*self._settings(), *self._hardware(names), ""]))

    def _settings(self) -> list[str]:
        login = self.nodes.login
        folder = self._folder
        return [
            "ClusterName=bed",
            f"SlurmctldHost={login.name}({login.ip})",
            "SlurmUser=root",
            # The credential's life is what decides how long a requeued job waits: 120 s unless said.
            f"AuthInfo=socket={self._socket},cred_expire={self._requeue_delay}",
            f"StateSaveLocation={folder}/state",
            f"SlurmdSpoolDir={folder}/spool-%n",
            f"SlurmctldPidFile={folder}/slurmctld.pid",
            f"SlurmdPidFile={folder}/slurmd-%n.pid",
            f"SlurmctldLogFile={folder}/slurmctld.log",
            f"SlurmdLogFile={folder}/slurmd-%n.log",
            "SlurmdDebug=verbose",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "JobCompType=jobcomp/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU_Memory",
            "SlurmdParameters=config_overrides",
            "GresTypes=gpu",
            "MpiDefault=none",
            "MailProg=/bin/true",
            "ReturnToService=2",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            "SchedulerType=sched/backfill",
            "SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2,bf_min_age_reserve=0",
            f"KillWait={self._kill_wait}",
            "OverTimeLimit=0",
            "JobRequeue=1",
            "DefMemPerCPU=1000",
            f"SlurmdTimeout={self._node_down}",
            "MinJobAge=3600",
            "WaitTime=0",
            "InactiveLimit=0",
            "EnforcePartLimits=ALL",
        ]

    def _hardware(self, names: str) -> list[str]:
        gres = f" Gres=gpu:{self._gpus}" if self._gpus else ""
        size = f"CPUs={self._cpus} RealMemory={self._memory_mb}{gres} State=UNKNOWN"
        nodes = [f"NodeName={node.name} NodeAddr={node.ip} NodeHostname={node.name} {size}" for node in self.nodes]
        partitions = {
            f"{DEFAULT_PARTITION} Default=YES": "MaxTime=60 DefaultTime=30 PreemptMode=OFF",
            SHORT_PARTITION: "MaxTime=2 DefaultTime=1 PreemptMode=OFF",
            SPARE_PARTITION: f"MaxTime=60 DefaultTime=30 PreemptMode=REQUEUE GraceTime={self._preempt_grace}",
            URGENT_PARTITION: "MaxTime=60 DefaultTime=30 PreemptMode=OFF PriorityTier=2",
        }
        return [*nodes, *(f"PartitionName={name} Nodes={names} State=UP {words}" for name, words in partitions.items())]

    def _slurmd(self, node: Node) -> list[str]:
        return ["slurmd", "-D", "-N", node.name, "-f", self.env["SLURM_CONF"]]

    def _start(self, name: str, node: Node, argv: Sequence[str]) -> None:
        self._families.append(Family(node, argv, log=self._folder / f"{name}.out.log"))

    def _stop(self) -> None:
        """Ends the daemons, those of the nodes with what jobs have left there."""
        while self._families:
            self._families.pop().kill()
        for node in self.nodes:
            if node.alive:
                node.run(["umount", "--no-mtab", "/etc/slurm"], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _all_idle(self) -> bool:
        shown = self.run(
            ["sinfo", "--noheader", "--Node", "--format=%N %t", f"--partition={DEFAULT_PARTITION}"], check=False
        )
        lines = [line.split() for line in shown.stdout.splitlines()]
        return len(lines) == len(self.nodes) and all(state == "idle" for _, state in lines)

    def _until(self, what: Callable[[], bool], otherwise: str, timeout: float = _UP_S) -> None:
        deadline = time.monotonic() + timeout
        while not what():
            if time.monotonic() > deadline:
                queue = subprocess.run(["squeue"], env=self.env, capture_output=True, text=True, check=False).stdout
                raise BedFailed(f"{otherwise} after {timeout} s\n{queue}\n{self.logs()}")
            time.sleep(_POLL_S)
