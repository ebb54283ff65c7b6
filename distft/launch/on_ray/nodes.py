"""The nodes of a Ray cluster that somebody else started: what they have, whether they run what we run, whether
they are closed to strangers. Asked of every node by a small task on it, before any rank starts.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distft.common.errors import EnvironmentFallsShort
from distft.config.cluster import Cluster
from distft.planning.hardware import ROUNDED
from distft.planning.machine import GIB, PASSED_ON, Machine

_AGENT_STARTS_S = 20.0
ANSWER_S = 90.0  # the first task on a node starts a process there
_STILL_S = 30.0  # one that has run our ranks has read what such a process reads
_AGENT_KEY, _AGENT_NAMESPACE = "DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX:", b"dashboard"
# What must not differ: they pickle for each other, and compute together.
SAME_EVERYWHERE = ("distft", "ray", "torch", "deepspeed", "transformers", "numpy")


@dataclass(frozen=True)
class RayNode:
    """A live node. ``agent``: where its agent listens, None where it does not. ``memory`` in bytes."""

    node_id: str
    ip: str
    name: str
    cpus: int
    gpus: int
    memory: int
    agent: tuple[str, int] | None
    is_head: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.ip})"


@dataclass(frozen=True)
class NodeAnswer:
    """``agent``: status of a request without a token, asked on the node of its own address; or what went wrong."""

    python: str
    packages: Mapping[str, str]
    agent: int | str | None
    gpu_memory_mib: tuple[float, ...]
    gpu_names: tuple[str, ...]


def live_nodes(left_out: Collection[str] = ()) -> list[RayNode]:
    """The nodes of the cluster that this process is connected to, the head first, then by address; but those that are
    ``left_out``, by name.

    Where an agent has only just been started, waits a little until it listens.
    """
    until = time.monotonic() + _AGENT_STARTS_S
    nodes = []
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"] and node["NodeManagerHostname"] not in left_out:
            has = node["Resources"]
            one = RayNode(
                node_id=node["NodeID"],
                ip=node["NodeManagerAddress"],
                name=node["NodeManagerHostname"],
                cpus=int(has.get("CPU", 0)),
                gpus=int(has.get("GPU", 0)),
                memory=int(has.get("memory", 0) + has.get("object_store_memory", 0)),
                agent=_agent(node["NodeID"], until),
                is_head="node:__internal_head__" in has,
            )
            nodes.append(one)
    return sorted(nodes, key=lambda node: (not node.is_head, tuple(part.rjust(3, "0") for part in node.ip.split("."))))


def _agent(node_id: str, until: float) -> tuple[str, int] | None:
    """Where a node's agent listens; None where it says that it does not, or never says anything."""
    while True:
        told = _internal_kv_get(f"{_AGENT_KEY}{node_id}", namespace=_AGENT_NAMESPACE)
        if told:
            ip, port = json.loads(told)[:2]
            return (ip, int(port)) if int(port) > 0 else None
        if time.monotonic() > until:
            return None
        time.sleep(0.2)


def on_every_node(
    nodes: Sequence[RayNode],
    task: Callable[..., Any],
    arguments: Callable[[RayNode], tuple[Any, ...]],
    *,
    seconds: float = ANSWER_S,
    gpus: int = 0,
) -> dict[str, Any]:
    """What ``task(*arguments(node))`` returns on each node, with so many ``gpus``, or the exception, by node id.

    The function must be a nested one, which travels by value: a node may lack this package.
    """
    remote = ray.remote(num_cpus=0, num_gpus=gpus, max_retries=0)(task)
    waiting = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote(
            *arguments(node)
        ): node
        for node in nodes
    }
    done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=seconds)
    answers: dict[str, Any] = {node.node_id: TimeoutError(f"no answer within {seconds:g} s") for node in nodes}
    for reference in done:
        try:
            answers[waiting[reference].node_id] = ray.get(reference)
        except Exception as error:
            answers[waiting[reference].node_id] = error
    return answers


def other_nodes(left_out: Collection[str] = ()) -> dict[str, str]:
    """The names of the cluster's live nodes but this one and those ``left_out``, by node id."""
    here = ray.get_runtime_context().get_node_id()
    return {
        node["NodeID"]: node["NodeManagerHostname"]
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["NodeID"] != here and node["NodeManagerHostname"] not in left_out
    }


def lost_nodes(nodes: Mapping[str, str]) -> list[str]:
    """The names of those of the nodes, by node id, that run no task any more. Ray's own list is a minute behind where
    a network is cut."""

    def answer() -> bool:
        return True

    remote = ray.remote(num_cpus=0, max_retries=0)(answer)
    asked = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(): name
        for node_id, name in nodes.items()
    }
    done, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_STILL_S) if asked else ([], [])
    return sorted([asked[one] for one in silent] + [asked[one] for one in done if not _answered(one)])


def _answered(reference: Any) -> bool:
    try:
        return bool(ray.get(reference))
    except ray.exceptions.RayError:
        return False


def ask(nodes: Sequence[RayNode]) -> dict[str, NodeAnswer | Exception]:
    """Versions, GPUs and the agent's answer to a stranger, by node id."""
    answers = on_every_node(nodes, _question(), lambda node: (node.agent, SAME_EVERYWHERE))
    return {
        node_id: answer if isinstance(answer, Exception) else NodeAnswer(*answer) for node_id, answer in answers.items()
    }


def check(nodes: Sequence[RayNode], answers: Mapping[str, NodeAnswer | Exception], *, open_agents: bool) -> None:
    """Raises EnvironmentFallsShort where a node is silent, runs other versions, or obeys anyone (``open_agents``:
    the cluster file accepts that).
    """
    here = versions()
    for node in nodes:
        answer = answers[node.node_id]
        if isinstance(answer, Exception):
            first = (str(answer).strip().splitlines() or [type(answer).__name__])[0]
            raise EnvironmentFallsShort(f"node {node} does not run tasks: {first}", where="Ray", hint="ray status")
        other = different(here, answer)
        if other:
            raise EnvironmentFallsShort(
                f"node {node} has other versions than this process: {other}",
                where="Ray", hint="install the same versions on every node and start its Ray again",
            )  # fmt: skip
        if answer.agent not in (None, http.client.UNAUTHORIZED) and not open_agents:
            raise EnvironmentFallsShort(
                f"Ray's agent of node {node} answered {answer.agent}, not 401, to a request without a token",
                where="Ray",
                hint="anyone who reaches this port can run commands there: start every node with RAY_AUTH_MODE=token "
                "and one RAY_AUTH_TOKEN_PATH, or accept it with `authentication: none` in the cluster file",
            )


def smaller_cards(
    nodes: Sequence[RayNode], answers: Mapping[str, NodeAnswer | Exception], gpu_memory: int
) -> dict[str, float]:
    """GiB of the smallest GPU by the name of the node, of those that have less than ``gpu_memory`` bytes, which a plan
    counts on. Two cards of one kind differ a little; where it is not known, a node passes."""
    found = {}
    for node in nodes:
        answer = answers.get(node.node_id)
        if node.gpus and isinstance(answer, NodeAnswer) and answer.gpu_memory_mib:
            there = min(answer.gpu_memory_mib) / 1024
            if there * ROUNDED < gpu_memory / GIB:
                found[node.name] = there
    return found


def versions() -> dict[str, str]:
    """Of this process, by package; "" where one is missing."""
    return {"python": platform.python_version(), **{name: _version(name) for name in SAME_EVERYWHERE}}


def different(here: Mapping[str, str], answer: NodeAnswer) -> str:
    """What is not the same there, as text; "" where all is."""
    there = {"python": answer.python, **answer.packages}
    return ", ".join(
        f"{name} {there.get(name) or 'missing'} there, {value or 'missing'} here"
        for name, value in here.items()
        if there.get(name, "") != value
    )


def machine_of(nodes: Sequence[RayNode], answers: Mapping[str, NodeAnswer | Exception], cluster: Cluster) -> Machine:
    """What a plan may use: the nodes with GPUs where the cluster file wants GPUs, else those with CPUs.

    The nodes of a plan are all alike, so each counts as the smallest. Raises EnvironmentFallsShort where no
    node is of use.
    """
    wants_gpus = cluster.node.gpus != 0 and (cluster.node.gpus != "auto" or any(node.gpus for node in nodes))
    of_use = [node for node in nodes if (node.gpus if wants_gpus else node.cpus) > 0]
    if not of_use:
        what = "GPUs" if wants_gpus else "CPUs"
        listed = ", ".join(f"{node}: {node.cpus} CPUs, {node.gpus} GPUs" for node in nodes)
        raise EnvironmentFallsShort(f"no node of the Ray cluster offers {what}: {listed}", where="Ray")
    seen = [answer for node in of_use if isinstance(answer := answers.get(node.node_id), NodeAnswer)]
    memory = [mib for answer in seen for mib in answer.gpu_memory_mib] if wants_gpus else []
    return Machine(
        cpus=min(node.cpus for node in of_use),
        memory_gib=min(node.memory for node in of_use) / GIB,
        gpus=min(node.gpus for node in of_use) if wants_gpus else 0,
        gpu_memory_gib=min(memory, default=0.0) / 1024,
        gpu_type=next((name for answer in seen for name in answer.gpu_names), "") if wants_gpus else "",
        nodes=len(of_use),
        environment={name: os.environ[name] for name in PASSED_ON if name in os.environ},
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _question() -> Callable[..., Any]:
    def question(agent: tuple[str, int] | None, packages: Sequence[str]) -> tuple[Any, ...]:
        import http.client
        import importlib.metadata
        import platform
        import subprocess

        found = {}
        for name in packages:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = ""
        status: int | str | None = None
        if agent is not None:
            connection = http.client.HTTPConnection(*agent, timeout=20)
            try:
                headers = {"Content-Type": "application/json"}
                connection.request("POST", "/api/job_agent/jobs/", body=b"{}", headers=headers)
                status = connection.getresponse().status
            except OSError as error:
                status = repr(error)
            finally:
                connection.close()
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
        try:
            told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
            gpus = [line.rsplit(",", 1) for line in told.splitlines() if "," in line]
        except (OSError, subprocess.SubprocessError):
            gpus = []
        memory, names = tuple(float(mib) for _, mib in gpus), tuple(name.strip() for name, _ in gpus)
        return platform.python_version(), found, status, memory, names

    return question
