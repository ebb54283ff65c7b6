"""What Slurm would refuse, or leave waiting for ever, found before anything is submitted: one clear message."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distft.common.errors import EnvironmentFallsShort, UserError, nearest
from distft.config.cluster import Cluster, Slurm

_TIMEOUT_S = 60.0
SINFO = ("sinfo", "--noheader", "--exact", "--format=%P|%a|%l|%D|%c|%m|%G")
_GPU = re.compile(r"gpu(?::([^:(,]+))?:(\d+)")


@dataclass(frozen=True)
class Kind:
    """Nodes of one partition that are alike. ``gpus`` by type ("": untyped); ``seconds``: the partition's longest job,
    None for no limit."""

    partition: str
    default: bool
    up: bool
    seconds: int | None
    nodes: int
    cpus: int
    memory_mib: int
    gpus: Mapping[str, int]


def ask(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What a command of Slurm's prints. Raises EnvironmentFallsShort where there is none, or it cannot answer."""
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env=environment,
            errors="replace",
        )  # fmt: skip
    except FileNotFoundError:
        raise EnvironmentFallsShort(
            f"there is no Slurm here: {command[0]} is not found",
            where="slurm", hint="submit from a login node; --dry-run shows the command anywhere",
        ) from None  # fmt: skip
    except subprocess.TimeoutExpired:
        raise EnvironmentFallsShort(f"{command[0]} has not answered in {_TIMEOUT_S:g} s", where="slurm") from None
    if done.returncode:
        raise SlurmRefused(command[0], done.stderr or done.stdout)  # scontrol says on stdout what it does not find
    return done.stdout


class SlurmRefused(EnvironmentFallsShort):
    """A command of Slurm's said no. ``said``: why, in its own words."""

    def __init__(self, command: str, said: str) -> None:
        lines = [re.sub(r"^\w+: (error: )?", "", line).strip() for line in said.splitlines()]
        self.said = "; ".join(dict.fromkeys(line for line in lines if line)) or "no reason given"
        super().__init__(f"{command} refused: {self.said}", where="slurm")


def kinds(text: str) -> list[Kind]:
    """What ``sinfo`` prints in the format asked for."""
    found = []
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != 7:
            continue
        name, up, limit, nodes, cpus, memory, gres = fields
        gpus: dict[str, int] = {}
        for kind, count in _GPU.findall(gres):
            gpus[kind] = gpus.get(kind, 0) + int(count)
        found.append(
            Kind(name.rstrip("*"), name.endswith("*"), up == "up", seconds(limit), _number(nodes), _number(cpus),
                 _number(memory), gpus)
        )  # fmt: skip
    return found


def check(cluster: Cluster, there: Sequence[Kind]) -> None:
    """The partition, and in it nodes like those of the cluster file, for as long. Raises UserError."""
    slurm = cluster.slurm or Slurm()
    names = sorted({kind.partition for kind in there})
    name = slurm.partition or next((kind.partition for kind in there if kind.default), None)
    if name is None:
        raise UserError(
            "this Slurm has no default partition", where="slurm.partition", hint=f"name one: {', '.join(names)}"
        )
    for part in name.split(","):
        if part not in names:
            close = nearest(part, names)
            hint = (f"did you mean {close}? " if close else "") + f"there are: {', '.join(names)}"
            raise UserError(f"there is no partition {part}", where="slurm.partition", hint=hint)
    chosen = [kind for kind in there if kind.partition in name.split(",")]
    _check_up(name, chosen)
    _check_nodes(cluster, slurm, name, chosen)
    if slurm.time is not None and slurm.qos is None:  # a QOS may have a limit of its own
        _check_time(slurm.time, name, chosen)


def _check_up(name: str, chosen: Sequence[Kind]) -> None:
    if not any(kind.up for kind in chosen):
        raise UserError(f"partition {name} takes no jobs now", where="slurm.partition", hint="sinfo says more")


def _check_nodes(cluster: Cluster, slurm: Slurm, name: str, chosen: Sequence[Kind]) -> None:
    node, spare = cluster.node, cluster.spare_nodes
    wanted = int(cluster.nodes) + spare
    for kind in ("cpus", "memory_mib"):
        asked = int(node.cpus) if kind == "cpus" else int(float(node.memory_gib) * 1024)
        most = max(getattr(one, kind) for one in chosen)
        if asked > most and not (kind == "memory_mib" and slurm.exclusive):
            what, key = ("CPUs", "node.cpus") if kind == "cpus" else ("MiB of memory", "node.memory_gib")
            fitting = f"cpus: {most}" if kind == "cpus" else f"memory_gib: {most // 102.4 / 10:g}"
            said = f"partition {name} has at most {most} {what} a node, the cluster file says {asked}"
            raise UserError(said, where=key, hint=f"nearest: {fitting}")
    alike = [one for one in chosen if _gpus(cluster, slurm, one)]
    if not alike:
        raise _no_gpus(cluster, slurm, name, chosen)
    nodes = sum(one.nodes for one in alike)
    if wanted > nodes:
        said = f"{wanted}, of them slurm.spare_nodes: {spare}" if spare else f"{wanted}"
        raise UserError(
            f"partition {name} has {nodes} such nodes, the cluster file says {said}", where="nodes",
            hint=f"nearest: nodes: {nodes - spare}" if nodes > spare else "nearest: slurm.spare_nodes: 0",
        )  # fmt: skip


def _gpus(cluster: Cluster, slurm: Slurm, kind: Kind) -> bool:
    """Whether a node of this kind has the GPUs that will be asked for."""
    node = cluster.node
    if not node.gpus or node.gpu is None:
        return True
    return (kind.gpus.get(node.gpu.type, 0) if slurm.gpus_typed else sum(kind.gpus.values())) >= int(node.gpus)


def _no_gpus(cluster: Cluster, slurm: Slurm, name: str, chosen: Sequence[Kind]) -> UserError:
    node = cluster.node
    assert node.gpu is not None
    there = {(kind, count) for one in chosen for kind, count in one.gpus.items()}
    said = ", ".join(f"{count} {kind or 'of no type'}" for kind, count in sorted(there)) or "none"
    what = f"partition {name} has no node with {node.gpus} GPUs of type {node.gpu.type}; GPUs a node: {said}"
    same = [count for kind, count in there if kind == node.gpu.type or not slurm.gpus_typed]
    untyped = [count for kind, count in there if not kind]
    if same:
        return UserError(what, where="node.gpus", hint=f"nearest: gpus: {max(same)}")
    if untyped and slurm.gpus_typed and max(untyped) >= int(node.gpus):
        return UserError(what, where="node.gpu.type", hint="slurm.gpus_typed: false asks for GPUs of whatever type")
    close = nearest(node.gpu.type, [kind for kind, _ in there if kind])
    return UserError(
        what, where="node.gpu.type", hint=f"did you mean type: {close}?" if close else "sinfo -o %G shows them"
    )


def _check_time(time: str, name: str, chosen: Sequence[Kind]) -> None:
    limits = [kind.seconds for kind in chosen]
    asked = seconds(time)
    if asked is None or None in limits or not limits:
        return
    most = max(limit for limit in limits if limit is not None)
    if asked > most:
        nearest_time = f"{most // 86400}-{most // 3600 % 24:02}:{most // 60 % 60:02}:{most % 60:02}"
        raise UserError(f"partition {name} runs no job longer than {nearest_time}, the cluster file says {time}",
                        where="slurm.time", hint=f'nearest: time: "{nearest_time}"')  # fmt: skip


def seconds(text: str) -> int | None:
    """Of Slurm's forms: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]; None for
    "infinite" and the like."""
    days, dash, clock = text.strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in parts) or (dash and not days.isdecimal()) or len(parts) > 3:
        return None
    numbers = [int(part) for part in parts]
    if dash:
        numbers = [*numbers, 0, 0][:3]
    else:
        numbers = [0, *numbers, 0][:3] if len(numbers) == 1 else [0, *numbers] if len(numbers) == 2 else numbers
    return int(days or 0) * 86400 + numbers[0] * 3600 + numbers[1] * 60 + numbers[2]


def _number(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0
