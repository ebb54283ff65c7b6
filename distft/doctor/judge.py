"""From what the nodes said to findings. Pure: every check is a function of the answers and of what is expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distft.config.cluster import Cluster
from distft.doctor.asking import Answers
from distft.doctor.findings import Finding, named
from distft.launch.machine import for_cpus_alone
from distft.planning.machine import GIB
from distft.tracking.wandb_backend import AT_A_SERVER

NodeReport = Mapping[str, Any]
_CLOCKS_OK_S, _CLOCKS_WRONG_S = 1.0, 30.0  # a lease is stale after 60 s without a heartbeat
_LITTLE_TEMPORARY, _LITTLE_SHARED_MEMORY = 2 * GIB, GIB // 2
_FEW_OPEN_FILES = 4096
_LITTLE_FREE = 0.5
_HOT = 90.0
_NO_MODULE = "distft: module load "  # the batch script's word
_SLOW = 0.5


@dataclass(frozen=True)
class Expected:
    """``num_nodes`` and ``gpus`` a node (None: whatever is there); ``disk``: bytes for the planned checkpoints."""

    cluster: Cluster
    folder: str
    num_nodes: int | None
    gpus: int
    disk: int = 0
    wandb_mode: str = "offline"


def nodes_answer(answers: Answers, expected: Expected) -> Iterator[Finding]:
    """Every node of the cluster said something."""
    names = [str(report["name"]) for report in answers.said]
    for node, why in answers.silent.items():
        do = "is it up, and is distft installed there?"
        if why.startswith(_NO_MODULE):
            do = "`module avail` shows what there is; `modules` in the cluster file names what jobs load"
        yield Finding("nodes", "wrong", f"does not answer: {why}", do, (node,) if node else ())
    wanted = expected.num_nodes
    if wanted is not None and len(names) < wanted and not answers.silent:
        yield Finding("nodes", "wrong", f"{len(names)} of {wanted} answer", "sinfo or ray status shows the others")
    if names and not answers.silent:
        yield Finding("nodes", "ok", f"{len(names)}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}")


def versions(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """One installation everywhere."""
    different = []
    for package in ("python", *reports[0]["packages"]):
        found: dict[str, list[str]] = {}
        for report in reports:
            value = report["python"] if package == "python" else report["packages"][package]
            found.setdefault(value or "missing", []).append(report["name"])
        if len(found) > 1:
            said = "; ".join(f"{value} on {', '.join(nodes[:4])}" for value, nodes in sorted(found.items()))
            different.append(f"{package} {said}")
        elif "missing" in found:
            different.append(f"{package} is missing")
    if different:
        yield Finding("versions", "wrong", "; ".join(different), "install the same distft on every node")
    else:
        packages = reports[0]["packages"]
        shown = ", ".join(f"{name} {packages[name]}" for name in ("distft", "torch", "ray", "deepspeed"))
        yield Finding("versions", "ok", f"python {reports[0]['python']}, {shown}, vLLM: {packages['vllm']}")


def modules(reports: Sequence[NodeReport], cluster: Cluster) -> Iterator[Finding]:
    """What jobs load is loaded on every node, by the environment's own account there."""
    if not cluster.modules:
        return
    fine = True
    for report in reports:
        there: Sequence[str] = report["modules"]
        missing = [name for name in cluster.modules if not any(f"{one}/".startswith(f"{name}/") for one in there)]
        if missing:
            fine = False
            found = f"{', '.join(missing)} not among the loaded: {', '.join(there) or 'none'}"
            do = "`module load` did not complain: fine where the name is another's alias"
            yield Finding("modules", "warning", found, do, (report["name"],))
    if fine:
        yield Finding("modules", "ok", f"loaded on every node: {', '.join(reports[0]['modules'])}")


def processors(reports: Sequence[NodeReport], expected: Expected) -> Iterator[Finding]:
    """Cores and memory as the cluster file says."""
    node, few = expected.cluster.node, []
    for report in reports:
        if isinstance(node.cpus, int) and report["cpus"] < node.cpus:
            few.append((report["name"], f"{report['cpus']} CPUs of {node.cpus}"))
        if isinstance(node.memory_gib, int | float) and report["memory"] < 0.95 * node.memory_gib * GIB:
            few.append((report["name"], f"{report['memory'] / GIB:.1f} GiB of {node.memory_gib:g}"))
    for name, what in few:
        yield Finding("machine", "wrong", f"has {what}", f"correct the cluster file {expected.cluster.name}", (name,))
    if not few:
        least = min(reports, key=lambda report: report["cpus"])
        memory = min(report["memory"] for report in reports) / GIB
        yield Finding("machine", "ok", f"at least {least['cpus']} CPUs and {memory:.1f} GiB a node")
    for report in reports:
        if report["memory_free"] < _LITTLE_FREE * report["memory"]:
            found = f"{report['memory_free'] / GIB:.1f} of {report['memory'] / GIB:.1f} GiB are free"
            yield Finding("memory", "warning", found, "something else uses it", (report["name"],))


def devices(reports: Sequence[NodeReport], expected: Expected) -> Iterator[Finding]:
    """As many GPUs as expected, none broken, hot or in use."""
    if not expected.gpus:
        found = sum(len(report["gpus"]) for report in reports)
        unused = f"none asked for, {found} there" if found else "none asked for: ranks run on the CPU"
        yield Finding("GPUs", "ok", unused)
        return
    healthy = True
    for report in reports:
        seen, torch = report["gpus"], report["packages"]["torch"]
        if for_cpus_alone(str(torch)):
            healthy = False
            what = f"torch {torch} is built for CPUs alone"
            yield Finding(
                "GPUs", "wrong", what, "install the one of pytorch.org for the driver's CUDA", (report["name"],)
            )
        if len(seen) < expected.gpus:
            healthy = False
            what = f"{len(seen)} of {expected.gpus} are seen"
            yield Finding("GPUs", "wrong", what, "nvidia-smi there; are they part of the job?", (report["name"],))
        for index, gpu in enumerate(seen):
            for state, what, do in _ailments(gpu):
                healthy = False
                yield Finding("GPUs", "wrong" if state else "warning", f"GPU {index}: {what}", do, (report["name"],))
    kinds = _nodes_by_gpu(reports)
    if len(kinds) > 1:
        listed = "; ".join(f"{kind} on {named(nodes)}" for kind, nodes in sorted(kinds.items()))
        do = "a sharded group runs at its slowest: constraint, gpus_typed or nodelist under `slurm` choose one model"
        yield Finding("GPUs", "warning", f"different models: {listed}", do)
    elif healthy:
        yield Finding("GPUs", "ok", f"{expected.gpus} a node: {', '.join(kinds)}")


def _nodes_by_gpu(reports: Sequence[NodeReport]) -> dict[str, list[str]]:
    """By model of GPU the nodes that have it."""
    found: dict[str, list[str]] = {}
    for report in reports:
        for kind in sorted({str(gpu["name"]) for gpu in report["gpus"]}):
            found.setdefault(kind, []).append(str(report["name"]))
    return found


def _ailments(gpu: Mapping[str, str]) -> Iterator[tuple[bool, str, str]]:
    """(whether it ends a run, what, what to do)."""
    errors = _number(gpu["ecc.errors.uncorrected.volatile.total"])
    if errors:
        yield True, f"{errors:g} uncorrected memory errors since the driver's start", "drain the node, reset the GPU"
    if (heat := _number(gpu["temperature.gpu"])) > _HOT:
        yield False, f"{heat:g} degrees", "look at its cooling"
    if gpu["clocks_event_reasons.hw_slowdown"] == "Active":
        yield False, "slowed down by its own protection", "look at its cooling and power"
    used, total = _number(gpu["memory.used"]), _number(gpu["memory.total"])
    if total and used > 0.05 * total:
        yield False, f"{used / 1024:.1f} of {total / 1024:.1f} GiB are in use", "another process has it: nvidia-smi"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # [N/A]
        return 0.0


def shared_folder(
    reports: Sequence[NodeReport], expected: Expected, seen_back: Callable[[str], bool]
) -> Iterator[Finding]:
    """Every node sees what this machine wrote there, and this machine what the node wrote."""
    bad = False
    for report in reports:
        folder = report["folder"]
        why = folder["error"] or ("" if folder["seen"] else "another folder: what is written here is not seen there")
        if not why and not seen_back(folder["written"]):
            why = "another folder: what is written there is not seen here"
        if why:
            bad = True
            do = "runs need one folder that all nodes and this machine see: output_dir, --folder"
            yield Finding("folder", "wrong", f"{expected.folder}: {why}", do, (report["name"],))
    if not bad:
        yield Finding("folder", "ok", f"{expected.folder} is seen and written by all")
        free = min(report["folder"]["free"] for report in reports)
        if expected.disk:
            enough = free >= expected.disk
            found = f"{free / GIB:.1f} GiB free, the planned checkpoints take {expected.disk / GIB:.2f}"
            do = "" if enough else "free some space, lower checkpoint.keep, or choose another output_dir"
            yield Finding("disk", "ok" if enough else "wrong", found, do)
        else:
            yield Finding("disk", "ok", f"{free / GIB:.1f} GiB free (--recipe says what a run would need)")


def local_folders(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """Room in each node's temporary folder and shared memory, which Ray and the data loaders use."""
    little = False
    for report in reports:
        for key, least, what in (
            ("temporary", _LITTLE_TEMPORARY, "the temporary folder"),
            ("shared_memory", _LITTLE_SHARED_MEMORY, "/dev/shm"),
        ):
            free = report[key]
            if free is not None and free < least:
                little = True
                found = f"{free / GIB:.1f} GiB free in {what}"
                yield Finding("temporary", "warning", found, f"at least {least / GIB:.1f} is better", (report["name"],))
        if report["open_files"] < _FEW_OPEN_FILES:
            little = True
            found = f"a process may open {report['open_files']} files"
            yield Finding("temporary", "warning", found, "raise `ulimit -n`", (report["name"],))
    if not little:
        yield Finding("temporary", "ok", "room in temporary folders and shared memory")


def clocks(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """The nodes' clocks agree: each is compared with the file server's, by the time of a file it wrote."""
    offsets = {report["name"]: report["folder"]["clock"] for report in reports if report["folder"]["clock"] is not None}
    if not offsets:
        return
    first, last = min(offsets, key=lambda name: offsets[name]), max(offsets, key=lambda name: offsets[name])
    spread = max(abs(offsets[last] - offsets[first]), *(abs(offset) for offset in offsets.values()))
    found = f"within {spread:.2f} s of each other and of the file server"
    if spread <= _CLOCKS_OK_S:
        yield Finding("clocks", "ok", found)
        return
    found = f"{spread:.1f} s apart: " + ", ".join(
        f"{name} {offsets[name]:+.1f}" for name in dict.fromkeys((first, last))
    )
    state: Any = "wrong" if spread > _CLOCKS_WRONG_S else "warning"
    yield Finding("clocks", state, found, "is NTP running on every node?")


def ports(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """Free ports are left. A Ray of somebody else's does no harm, ours takes other ports, but is said."""
    fine = True
    for report in reports:
        found = report["ports"]
        if found["used"] > 0.8 * found["range"]:
            fine = False
            what = f"{found['used']} of {found['range']} ports are in use"
            yield Finding("ports", "wrong", what, "widen net.ipv4.ip_local_port_range", (report["name"],))
    busy = [report["name"] for report in reports if report["ports"]["taken"]]
    if fine:
        also = f"; Ray's usual ones are taken on {', '.join(busy[:6])}, others are used" if busy else ""
        yield Finding("ports", "ok", f"free ones on every node{also}")


def interfaces(reports: Sequence[NodeReport], cluster: Cluster) -> Iterator[Finding]:
    """The interface that the cluster file names is up, with an address, everywhere."""
    name = cluster.network.interface
    if name is None:
        return
    without = [report["name"] for report in reports if not report["addresses"].get(name)]
    if without:
        others = sorted({other for report in reports for other in report["addresses"] if other != "lo"})
        yield Finding("interface", "wrong", f"{name} has no address", f"there are: {', '.join(others)}", tuple(without))
    else:
        yield Finding("interface", "ok", f"{name} has an address on every node")


def wandb(reports: Sequence[NodeReport], mode: str) -> Iterator[Finding]:
    """W&B answers, where that is wanted. A run does not depend on it."""
    if mode not in AT_A_SERVER:
        yield Finding("W&B", "ok", f"mode {mode}: nothing is sent; metrics.jsonl has everything")
        return
    failing = {report["name"]: report["wandb"] for report in reports[:1] if report["wandb"]}
    for name, why in failing.items():
        do = "the run goes on without it and `wandb sync` sends it later; or tracking.wandb.mode=offline"
        yield Finding("W&B", "warning", f"does not answer: {why}", do, (name,))
    if not failing:
        yield Finding("W&B", "ok", "answers")


def agents(answers: Answers) -> Iterator[Finding]:
    """A private Ray starts on every node and turns strangers away."""
    bad = dict(answers.silent)
    bad.update({str(said["name"]): said["error"] for said in answers.said if said["error"]})
    for node, why in bad.items():
        yield Finding("agent", "wrong", why.replace("\n", " "), "see above", (node,) if node else ())
    if not bad:
        yield Finding("agent", "ok", "Ray starts, and its agent answers 401 without the token")


def collectives(answers: Answers, world: int, backend: str, cluster: Cluster) -> Iterator[Finding]:
    """All ranks met, the sums are right; and how fast the slowest was."""
    bad = dict(answers.silent)
    bad.update({str(said["name"]): said["error"] for said in answers.said if said["error"]})
    for node, why in bad.items():
        do = "do the nodes reach each other? network.interface in the cluster file names the right one"
        yield Finding("network", "wrong", f"{backend} over {world} ranks: {why}", do, (node,) if node else ())
    measured = [rank for said in answers.said for rank in said["measured"]]
    if bad or not measured:
        return
    wrong = [str(rank["rank"]) for rank in measured if not rank["right"]]
    if wrong:
        yield Finding("network", "wrong", f"{backend} returns wrong sums on ranks {', '.join(wrong)}",
                      "a broken device or driver: take the node out")  # fmt: skip
        return
    reduce, gather = (min(rank[name] for rank in measured) for name in ("all_reduce", "all_gather"))
    found = (
        f"{backend}, {world} ranks: sums right; all-reduce {reduce / 1e9:.2f} GB/s, all-gather {gather / 1e9:.2f} GB/s"
    )
    nominal = (cluster.network.bandwidth_gbps or 0) / 8 * 1e9
    several = len(answers.said) > 1
    if several and nominal and backend == "nccl" and reduce < _SLOW * nominal:
        do = f"the cluster file says {nominal / 1e9:.0f} GB/s: NCCL_DEBUG=INFO shows which network it uses"
        yield Finding("network", "warning", found, do)
    else:
        yield Finding("network", "ok", found)
