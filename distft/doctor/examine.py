"""The doctor's round: whom to ask, in which order, and what is worth going on with."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.cluster import Cluster, load_cluster
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.doctor import judge
from distft.doctor.asking import Answers, Asking, OverRay, OverSlurm, here
from distft.doctor.findings import Finding, Report
from distft.launch.machine import this_machine
from distft.tracking.wandb_backend import AT_A_SERVER, wandb_options

WANDB_URL = "https://api.wandb.ai"


def examine(cluster_name: str, *, recipe_name: str | None = None, folder: Path | None = None) -> Report:
    """Looks at every node of the cluster. Raises UserError for names that are wrong, EnvironmentFallsShort where the
    cluster cannot be reached at all.
    """
    cluster = load_cluster(cluster_name)
    recipe = load_recipe(recipe_name, []) if recipe_name else None
    shared = (folder or (Path(recipe.output_dir) if recipe else Path())).absolute()
    shared = next(each for each in (shared, *shared.parents) if each.is_dir())
    with _reached(cluster, shared) as (asking, extra):
        return Report(cluster.name, (*extra, *_round(asking, cluster, recipe, shared)))


def _round(asking: Asking, cluster: Cluster, recipe: Recipe | None, shared: Path) -> Iterator[Finding]:
    mode = wandb_options(recipe).mode if recipe else os.environ.get("WANDB_MODE", "offline")
    expected = judge.Expected(cluster, str(shared), asking.num_nodes, asking.gpus, _disk(recipe, cluster), mode)
    with _nonce(shared) as nonce:
        url = wandb_url(cluster) if mode in AT_A_SERVER else ""
        question = {"folder": str(shared), "nonce": nonce, "wandb_url": url}
        answers = asking.ask("report", question).by_name()
        reports = answers.said
        yield from judge.nodes_answer(answers, expected)
        if not reports:
            return
        if isinstance(asking, OverSlurm):
            yield from judge.modules(reports, cluster)
        yield from judge.versions(reports)
        yield from judge.processors(reports, expected)
        yield from judge.devices(reports, expected)
        folder = [*judge.shared_folder(reports, expected, lambda name: (shared / name).is_file())]
        yield from folder
        yield from judge.local_folders(reports)
        yield from judge.clocks(reports)
        yield from judge.ports(reports)
        yield from judge.interfaces(reports, cluster)
        if cluster.kind != "ray":
            yield from judge.agents(asking.ask("agent", {}))
        yield from judge.wandb(reports, mode)
    if any(finding.state == "wrong" for finding in folder) or answers.silent:
        yield Finding("network", "warning", "not measured: the nodes must first share a folder and all answer")
    else:
        yield from _network(asking, cluster, shared, answers)


def wandb_url(cluster: Cluster) -> str:
    """The W&B server that a run on this cluster would use."""
    return cluster.environment.get("WANDB_BASE_URL") or os.environ.get("WANDB_BASE_URL") or WANDB_URL


def _network(asking: Asking, cluster: Cluster, shared: Path, answers: Answers) -> Iterator[Finding]:
    """All-reduce and all-gather: a rank on every GPU, else one on every node, and two where there is one node."""
    backend = "nccl" if asking.gpus else "gloo"
    each = asking.gpus or (2 if len(answers.said) == 1 else 1)
    if asking.gpus == 1 and len(answers.said) == 1:
        yield Finding("network", "ok", "one GPU: nothing to measure")
        return
    addresses = {str(report["name"]): _address(report, cluster) for report in answers.said}
    lost = tuple(name for name, address in addresses.items() if not address)
    if lost:
        yield Finding("network", "wrong", "no address that other nodes could use", "network.interface names one", lost)
        return
    ranks = {name: [index * each, each, address] for index, (name, address) in enumerate(addresses.items())}
    world = each * len(ranks)
    folder = shared / f".distft-doctor-{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    interface = {"GLOO_SOCKET_IFNAME": cluster.network.interface} if cluster.network.interface else {}
    nccl = dict(cluster.network.nccl) | ({"NCCL_SOCKET_IFNAME": cluster.network.interface} if interface else {})
    question: dict[str, Any] = {
        "folder": str(folder), "ranks": ranks, "world": world, "backend": backend,
        "environment": interface | (nccl if asking.gpus else {}),
    }  # fmt: skip
    try:
        yield from judge.collectives(asking.ask("collectives", question), world, backend, cluster)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _address(report: judge.NodeReport, cluster: Cluster) -> str:
    """Where other nodes reach this one: on the file's interface, else on the first that is not for itself alone."""
    found: dict[str, list[str]] = report["addresses"]
    if cluster.kind == "local":
        return "127.0.0.1"
    if cluster.network.interface:
        return next(iter(found.get(cluster.network.interface, [])), "")
    usual = [name for name in found if not name.startswith(("lo", "docker", "virbr", "veth", "br-", "cni", "flannel"))]
    return next((address for name in usual for address in found[name] if ":" not in address), "")


def _disk(recipe: Recipe | None, cluster: Cluster) -> int:
    """Bytes that the recipe's run would still write; 0 where that is not known."""
    if recipe is None:
        return 0
    from distft.launch.preflight.checks import room_needed
    from distft.planning.generation import installed_vllm
    from distft.planning.plan import make_plan

    try:
        plan = make_plan(recipe, cluster, machine=this_machine(), vllm=installed_vllm())
    except EnvironmentFallsShort:  # a plan for nodes that are not there: the report says so
        return 0
    return room_needed(recipe, plan)[1]


@contextmanager
def _nonce(shared: Path) -> Iterator[str]:
    """A file that the nodes look for, and theirs, which go at the end."""
    nonce = f".distft-doctor-{secrets.token_hex(8)}"
    try:
        (shared / nonce).write_text("here")
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror}", where=str(shared), hint="--folder names another"
        ) from None
    try:
        yield nonce
    finally:
        for path in shared.glob(f"{nonce}*"):
            path.unlink(missing_ok=True)


@contextmanager
def _reached(cluster: Cluster, shared: Path) -> Iterator[tuple[Asking, list[Finding]]]:
    """Connected to the cluster; and what that has shown already."""
    gpus = cluster.node.gpus
    if cluster.kind == "ray" or (cluster.kind == "slurm" and os.environ.get("RAY_ADDRESS")):
        with _ray(cluster) as found:
            yield found
    elif cluster.kind == "slurm":
        from distft.doctor.over_slurm import over_slurm

        yield over_slurm(cluster, shared), []
    else:
        with here(this_machine().gpus if gpus == "auto" else int(gpus)) as asking:
            yield asking, []


@contextmanager
def _ray(cluster: Cluster) -> Iterator[tuple[Asking, list[Finding]]]:
    from distft.launch.on_ray import nodes as ray_nodes
    from distft.launch.on_ray.cluster import existing, ray_address

    with existing(ray_address(cluster), check=False):
        nodes = ray_nodes.live_nodes()
        answers = ray_nodes.ask(nodes)
        findings, open_agents = [], cluster.authentication == "none"
        for node in nodes:
            answer = answers[node.node_id]
            if isinstance(answer, Exception) or answer.agent in (None, 401):
                continue
            do = "start every node with RAY_AUTH_MODE=token; anyone on the network can run commands there"
            state: Any = "warning" if open_agents else "wrong"
            findings.append(
                Finding("agent", state, f"answers {answer.agent} without a token, not 401", do, (node.name,))
            )
        if not findings:
            findings.append(Finding("agent", "ok", "every node's agent answers 401 without the token"))
        machine = ray_nodes.machine_of(nodes, answers, cluster)
        of_use = [node for node in nodes if (node.gpus if machine.gpus else node.cpus) > 0]
        yield OverRay(machine.gpus, of_use, ray_nodes.on_every_node), findings
