"""The Ray cluster of a run: a private one on this machine, or the one that RAY_ADDRESS names.

A cluster of our own has token authentication on, in a folder that only this user can enter. It ends with this
process, however that ends: Ray's servers by the kernel (parent death signal), the rest by ``guard``.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import math
import os
import secrets
import signal
import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._raylet import Config  # type: ignore[attr-defined]

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.cluster import Cluster as ClusterFile
from distft.groups import worker_start
from distft.groups.worker_group import ended_servers
from distft.launch.on_ray import nodes as ray_nodes
from distft.launch.on_ray import start_hook
from distft.launch.on_ray.agent_probe import refuse_strangers
from distft.launch.on_ray.private import FORKS, SETTINGS, PrivateRay, private_folder
from distft.planning.machine import Machine

log = logging.getLogger(__name__)

_CONNECT_S = 10.0
_LOOPBACK = "127.0.0.1"
_token = ""
_checked: dict[str, tuple[list[ray_nodes.RayNode], dict[str, ray_nodes.NodeAnswer | Exception]]] = {}


@dataclass(frozen=True)
class Cluster:
    """Where this process is connected. ``private``: started here, and ended with this process."""

    address: str
    node_ip: str
    private: bool


@contextlib.contextmanager
def connect(
    *,
    num_cpus: float,
    num_gpus: int = 0,
    object_store_bytes: int | None = None,
    run_dir: Path | None = None,
    open_agents: bool = False,
) -> Iterator[Cluster]:
    """Connects this process to Ray for the duration of the block.

    With RAY_ADDRESS set, to that cluster (the numbers are then what it is, not what is asked here), once every
    node of it has answered that it runs the same versions and turns strangers away (``open_agents``: it need not);
    else to a new one on this machine with these logical resources. Inside another ``connect`` the
    outer one's cluster is used, so several runs in one process may keep it. If the block ends by an
    exception, the ends of Ray's own logs are kept in ``run_dir/logs/ray``.

    Raises UserError for a RAY_ADDRESS that is not explicit, EnvironmentFallsShort where Ray cannot
    be reached or started, or would let anyone on the network run commands.
    """
    if ray.is_initialized():
        yield _connected(private=False)
        return
    address = os.environ.get("RAY_ADDRESS", "").strip()
    theirs = existing(address, open_agents=open_agents)
    with theirs if address else _private(num_cpus, num_gpus, object_store_bytes, run_dir) as cluster:
        yield cluster


# ---- somebody else's


def existing_machine(cluster: ClusterFile) -> Machine:
    """What the nodes of RAY_ADDRESS have, for the plan. Raises as ``connect``, and where the variable is not set."""
    address = ray_address(cluster)
    is_open = cluster.authentication == "none"
    with contextlib.nullcontext() if ray.is_initialized() else existing(address, open_agents=is_open):
        nodes, answers = _checked[address]
        return ray_nodes.machine_of(nodes, answers, cluster)


def ray_address(cluster: ClusterFile) -> str:
    """RAY_ADDRESS. Raises EnvironmentFallsShort where it is not set."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if not address:
        raise EnvironmentFallsShort(
            "its nodes are asked of the running Ray, and RAY_ADDRESS is not set",
            where=f"cluster {cluster.name}",
            hint="set RAY_ADDRESS=host:port (of its GCS, 6379 by default); or write numbers for `auto` into the file",
        )
    return address


@contextlib.contextmanager
def existing(address: str, *, open_agents: bool = False, check: bool = True) -> Iterator[Cluster]:
    """Connected to the cluster with this address, see ``connect``; without the ``check`` of its nodes if not wanted."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise UserError(
            f"{address!r} is not an explicit address", where="RAY_ADDRESS", hint="give host:port, or unset it"
        )
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        use_tokens()
    try:
        # Ray waits forever for an address where nobody listens.
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
        _init(address=address)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise EnvironmentFallsShort(
            f"cannot connect to Ray: {_first_line(error)}",
            where=f"RAY_ADDRESS={address}",
            hint="is it running, and is RAY_AUTH_TOKEN_PATH the path of its token?",
        ) from error
    try:
        if check and address not in _checked:  # once in a process: planning has just asked, or the run before
            check_nodes(address, open_agents=open_agents)
        yield _connected(private=False)
    finally:
        _leave()


def check_nodes(
    address: str, *, open_agents: bool, left_out: Collection[str] = ()
) -> tuple[list[ray_nodes.RayNode], dict[str, ray_nodes.NodeAnswer | Exception]]:
    """Every live node that is not ``left_out``, by name, runs the same versions and turns strangers away. Returns them,
    and what they answered, by node id. Raises EnvironmentFallsShort."""
    nodes = ray_nodes.live_nodes(left_out)
    answers = ray_nodes.ask(nodes)
    ray_nodes.check(nodes, answers, open_agents=open_agents)
    _checked[address] = nodes, answers
    return nodes, answers


def _leave() -> None:
    """Leaves Ray. While it lets go of its worker no thread may collect garbage: a reference to an object that is found
    then ends the process, with 1 and no word of ours, though all is done."""
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collecting:
            gc.enable()


# ---- our own


@contextlib.contextmanager
def _private(num_cpus: float, num_gpus: int, object_store_bytes: int | None, run_dir: Path | None) -> Iterator[Cluster]:
    failed = True
    with contextlib.ExitStack() as stack:
        private, agent = _started(stack, num_cpus, num_gpus, object_store_bytes, run_dir)
        try:
            _refuse_strangers(*agent)
            yield _connected(private=True)
            failed = bool(ended_servers())  # a run may go on in another: what ended this one is kept
        finally:
            _leave()
            if failed:
                _keep_logs(private, run_dir)


def _started(
    stack: contextlib.ExitStack, num_cpus: float, num_gpus: int, object_store_bytes: int | None, run_dir: Path | None
) -> tuple[PrivateRay, tuple[str, int]]:
    """Starts Ray, twice if need be: its own 30 s are short for a machine that is busy, or reads Ray for the first time.

    What ends it is left on ``stack``. Returns it, and where its agent listens.
    """
    for tries_left in (1, 0):
        with contextlib.ExitStack() as trying:
            private = trying.enter_context(PrivateRay(private_folder(None, _own_token())))
            trying.enter_context(_environment(private))
            try:
                agent = _start(private.folder, num_cpus, num_gpus, object_store_bytes)
            except EnvironmentFallsShort as error:
                _leave()
                _keep_logs(private, run_dir)
                if not tries_left:
                    raise
                log.warning("%s; it is started once more", error.what)
                continue
            stack.push(trying.pop_all())
            return private, agent
    raise AssertionError("the last try returns or raises")


def _own_token() -> str:
    """One for all clusters of this process: Ray reads it once."""
    global _token
    _token = _token or secrets.token_hex(32)
    return _token


def _start(folder: Path, num_cpus: float, num_gpus: int, object_store_bytes: int | None) -> tuple[str, int]:
    """Starts Ray; returns where its agent listens."""
    use_tokens()
    try:
        with _apart_from_our_signals(), _lean():
            context = _init(
                address="local",
                num_cpus=math.ceil(num_cpus),
                num_gpus=num_gpus,
                object_store_memory=object_store_bytes,
                include_dashboard=False,
                _temp_dir=str(folder / "r"),
            )
    except Exception as error:  # Ray's own "timed out during startup", after 30 s, is of no narrower class
        what = f"Ray does not start: {_first_line(error)}"
        raise EnvironmentFallsShort(
            what, where="local Ray", hint="is there memory and disk left? see RUN/logs/ray"
        ) from error
    return context.address_info["node_ip_address"], int(context.address_info["dashboard_agent_listen_port"])


@contextlib.contextmanager
def _apart_from_our_signals() -> Iterator[None]:
    """Ray's servers, and so the workers, start in sessions of their own. A closed terminal sends SIGHUP to every
    process in the foreground, ``timeout`` SIGTERM to all of its group: the driver that is to stop in order needs them.
    """
    opened = ray._private.services.ConsolePopen
    ray._private.services.ConsolePopen = functools.partial(opened, start_new_session=True)  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        ray._private.services.ConsolePopen = opened  # type: ignore[misc]


@contextlib.contextmanager
def _lean() -> Iterator[None]:
    """``ray.init`` calls no start hook: what it makes of its arguments goes through ours here. So does the
    address: Ray would take one that other machines reach, and all its servers would listen to them."""
    made = ray._private.parameter.RayParams

    def make(**arguments: Any) -> Any:
        settings = made(**arguments)
        start_hook.lean(settings, True)
        settings.node_ip_address = _LOOPBACK
        return settings

    ray._private.parameter.RayParams = make  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        ray._private.parameter.RayParams = made  # type: ignore[misc]


@contextlib.contextmanager
def _environment(private: PrivateRay) -> Iterator[None]:
    """Ray's settings travel to its processes by the environment; ours is as before afterwards."""
    settings: dict[str, str | None] = {**SETTINGS, "RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": str(private.token)}
    settings |= {worker_start.FOLDER: str(private.folder / FORKS)}
    before = {name: os.environ.get(name) for name in settings}
    _set_environment(settings)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _refuse_strangers(host: str, port: int) -> None:
    """Raises EnvironmentFallsShort unless our own agent, asked from the node's address, refuses strangers.

    Ray says port -1 where the agent does not listen at all (another Ray on this machine has its port).
    """
    if port >= 0:
        refuse_strangers(host, port, "local Ray")


def _keep_logs(private: PrivateRay, run_dir: Path | None) -> None:
    # Where the run folder was moved away none is made in its place.
    if run_dir is not None and (run_dir / "logs").is_dir():
        private.keep_logs(run_dir / "logs" / "ray")


# ---- both


def use_tokens() -> None:
    """Token mode for this process. Ray reads the variable at import, hence the second step."""
    os.environ["RAY_AUTH_MODE"] = "token"
    Config.initialize("")


def _init(**arguments: Any) -> Any:
    """``ray.init`` that leaves logging and this process's signal handlers alone."""
    main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray._private.worker.print_to_stdstream = _to_log  # type: ignore[assignment]
        return ray.init(log_to_driver=False, configure_logging=False, **arguments)
    finally:
        # Where nobody had one, Ray's handler stays: it turns SIGTERM into an orderly exit.
        for number, handler in handlers.items():
            if main_thread and callable(handler):
                signal.signal(number, handler)


def _to_log(report: Mapping[str, Any], **_: Any) -> None:
    """Takes the place of Ray's printing of its raylets' reports: standard output is the verb's own."""
    for line in report["lines"]:
        log.info("Ray reports: %s", line)


def _connected(*, private: bool) -> Cluster:
    context = ray.get_runtime_context()
    address = str(context.gcs_address)
    ip = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    return Cluster(address=address, node_ip=ip, private=private)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
