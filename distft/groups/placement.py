"""Starts the groups of an attempt on a Ray cluster, and ends them.

    specs -> bundles (pure) -> one Ray placement group per device set
          -> actors say where they are -> ranks by node and device (pure) -> workers constructed

All groups start at once. Nothing is started if the cluster could never hold them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from distft.common.errors import EnvironmentFallsShort
from distft.common.verb import Ending, declaration
from distft.groups.births import Starting, born
from distft.groups.bundles import (
    Bundle,
    GroupSpec,
    Node,
    bundles,
    choose_nodes,
    in_order,
    node_number,
    sharers,
)
from distft.groups.deadlines import Deadlines
from distft.groups.handles import WorkerInfo, together
from distft.groups.lanes import Devices
from distft.groups.ray_handles import Attempt, RayGroup
from distft.groups.succession import Followed, MayFollow, Succession
from distft.groups.worker_group import Answers, Member, ended_servers
from distft.tracking.progress import GroupState
from distft.tracking.timing import Busy, Span

__all__ = ["Deadlines", "GroupSpec", "Groups", "OnReady", "start_groups"]

log = logging.getLogger(__name__)

OnReady = Callable[[str, tuple[WorkerInfo, ...]], None]

_CLOSE = declaration(Ending.close)
_CLOSE_S = 10.0  # how long workers may take to leave their process groups before they are killed
_GONE_S = 5.0  # how long killed actors may take to be gone
_GIVEN_BACK_S = 30.0  # how long Ray may take to give their places to others
_SUCCEEDED_S = 120.0  # within which the place of a dead worker is taken again; on a node that is lost it never is


class Groups(Mapping[str, RayGroup]):
    """The running groups by role. As a context manager: closed at the end, killed on an exception."""

    def __init__(
        self, attempt: Attempt, members: list[Member], placements: Sequence[Any], succession: Succession
    ) -> None:
        self._attempt, self._members, self._placements = attempt, members, list(placements)
        self._succession = succession

    def __getitem__(self, role: str) -> RayGroup:
        return self._attempt.groups[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._attempt.groups)

    def __len__(self) -> int:
        return len(self._attempt.groups)

    def __enter__(self) -> Groups:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(kill=error is not None)

    @property
    def workers(self) -> dict[str, tuple[WorkerInfo, ...]]:
        """Where every rank of every role runs."""
        return {role: group.workers for role, group in self.items()}

    def states(self) -> dict[str, GroupState]:
        """What every group does now. Another thread may ask."""
        return self._attempt.states()

    def take_busy(self) -> Busy:
        """What the devices did since the last call of this."""
        return self._attempt.take_busy()

    def take_spans(self) -> list[Span]:
        """What each rank did since the last call of this."""
        return self._attempt.take_spans()

    def take_peaks(self) -> dict[str, dict[str, int]]:
        """By role what the fullest rank took of its device since the last call of this."""
        return self._attempt.take_peaks()

    def let_succeed(self, may: MayFollow, told: Followed) -> None:
        """From now on a worker that dies is followed by another, where its group allows that and ``may`` does; ``told``
        is called when one has taken its place."""
        self._succession.allow(may, told)

    def shutdown(self, *, kill: bool = False, close_s: float = _CLOSE_S) -> None:
        """Ends all actors: after their verb ``close``, or at once (``kill``). May be called again."""
        try:
            if not kill and self._attempt.failure is None and self._members:
                self._close(close_s)
        finally:
            members, self._members = self._members, []
            placements, self._placements = self._placements, []
            _end(members, placements)

    def _close(self, close_s: float) -> None:
        """Lets all ranks leave their process groups together; a failure here only goes to the log."""
        try:
            together(*(group.call(_CLOSE, deadline_s=close_s) for group in self.values()))
        except Exception as error:
            log.warning("groups did not close by themselves: %s", error)


def start_groups(
    specs: Sequence[GroupSpec],
    *,
    log_dir: Path | str,
    attempt: int,
    deadlines: Deadlines,
    on_ready: OnReady | None = None,
    left_out: Collection[str] = (),
) -> Groups:
    """Starts all groups at once and returns when every worker is constructed.

    Nodes that are ``left_out``, by name, get no rank.
    ``on_ready(role, workers)`` is called as each group is. Logs go to ``log_dir/<role>-<rank>.log``.
    Raises EnvironmentFallsShort where the cluster cannot hold the groups, RunFailed where a worker
    does not start (and then nothing is left running); a worker's UserError comes as itself.
    """
    living = {spec.role: spec.lives_with for spec in specs if spec.lives_with}
    hosts = [spec for spec in specs if spec.role not in living]
    sets = sharers(hosts)
    placements: list[Any] = []
    members: list[Member] = []
    answers = Answers()
    running = Attempt(
        Devices(
            {spec.role: spec.devices for spec in specs},
            {spec.role: spec.beside for spec in specs},
            {spec.role: spec.resting for spec in specs},
            living,
        ),
        deadlines,
        answers,
    )
    try:
        placed = _place(sets, placements, deadlines.start_s, left_out)
        starting = [
            Starting(spec, sets[spec.devices], placed[spec.devices], answers, deadlines.start_s, tenants)
            for spec in hosts
            for tenants in [[one for one in specs if one.lives_with == spec.role]]
        ]
        for one in starting:
            members.extend(one.members)
        for one in born(starting, answers, Path(log_dir).absolute(), attempt):
            for spec in (one.spec, *one.tenants):
                group = RayGroup(
                    spec.role, one.members_as(spec.role), running, spec.micro_batch_cost, replaceable=spec.replaceable
                )
                running.groups[spec.role] = group
                log.info("group %s is ready: %d workers", group.role, group.num_ranks)
                if on_ready is not None:
                    on_ready(group.role, group.workers)
    except BaseException:
        _end(members, placements)
        raise
    # In the order asked for, not in that of readiness.
    running.groups = {spec.role: running.groups[spec.role] for spec in specs}
    started = {one.spec.role: one for one in starting}

    def successor(dead: Member) -> Member:
        _end_one(dead)
        return started[dead.role].successor(dead, answers, min(_SUCCEEDED_S, deadlines.start_s), members.append)

    succession = Succession(running, answers, successor)
    running.succeed = succession.after
    return Groups(running, members, placements, succession)


# ---- places


def shortage(specs: Sequence[GroupSpec], left_out: Collection[str] = ()) -> str:
    """What the cluster's live nodes have too little of to hold the groups; "" where they could."""
    hosts = [spec for spec in specs if not spec.lives_with]
    places = [place for members in sharers(hosts).values() for place in bundles(members)]
    try:
        choose_nodes(places, _nodes(left_out))
    except EnvironmentFallsShort as error:
        return error.what
    return ""


def _place(
    sets: Mapping[str, Sequence[GroupSpec]], placements: list[Any], start_s: float, left_out: Collection[str]
) -> dict[str, Any]:
    """A Ray placement group for every device set; what is made is appended to ``placements``."""
    places = {name: bundles(members) for name, members in sets.items()}
    nodes = _nodes(left_out)
    node_ids = choose_nodes([place for here in places.values() for place in here], nodes)
    anywhere = {"ray.io/node-id": f"in({','.join(node.node_id for node in nodes)})"} if left_out else {}
    made = {name: _placement(here, node_ids, anywhere) for name, here in places.items()}
    placements.extend(made.values())
    until = time.monotonic() + start_s
    for name, group in made.items():
        # In short waits, so that Ctrl-C is heard.
        while not group.wait(timeout_seconds=1):
            if time.monotonic() > until:
                asked = ", ".join(spec.role for spec in sets[name])
                raise EnvironmentFallsShort(
                    f"no room for {asked} within {start_s:g} s: free are {_free()}",
                    where="placement", hint="something else is using this Ray cluster",
                )  # fmt: skip
    return made


def _placement(places: Sequence[Bundle], node_ids: Mapping[int, str], anywhere: dict[str, str]) -> Any:
    """``anywhere``: the labels of a node for what needs none in particular."""
    selectors = [anywhere if place.node is None else {"ray.io/node-id": node_ids[place.node]} for place in places]
    return placement_group(
        [dict(place.resources) for place in places],
        strategy="PACK",
        bundle_label_selector=selectors if any(selectors) else None,
    )


def _nodes(left_out: Collection[str]) -> list[Node]:
    """The live nodes but those left out, in the order in which the plan numbers them."""
    here = ray.get_runtime_context().get_node_id()
    nodes = [
        Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"], node_number(node.get("Labels") or {}))
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["NodeManagerHostname"] not in left_out
    ]
    return in_order(nodes, here)


def _free() -> str:
    free = ray.available_resources()  # type: ignore[no-untyped-call]
    return f"{free.get('CPU', 0.0):g} CPUs, {free.get('GPU', 0.0):g} GPUs"


# ---- the end


def _end_one(member: Member) -> None:
    """One that is dead, or does not answer: then a process of this node is ended even where it is frozen."""
    with contextlib.suppress(Exception):
        ray.kill(member.actor)
    if member.info is not None and member.info.node_id == ray.get_runtime_context().get_node_id():
        _kill([member.info.pid] if _is_worker(member.info.pid) else [])


def _end(members: Sequence[Member], placements: Sequence[Any]) -> None:
    """Kills the actors, sees that they are gone, and gives the places back; where Ray has ended, kills alone."""
    if not ray.is_initialized():
        return
    if ended_servers():  # who asks it would wait for a minute, and be ended by it
        pids = [member.info.pid for member in members if member.info is not None]
        _kill([pid for pid in pids if _is_worker(pid)])
        return
    for member in members:
        with contextlib.suppress(Exception):
            ray.kill(member.actor)
    watches = [member.watch for member in members]
    with contextlib.suppress(Exception):
        if watches:
            ray.wait(watches, num_returns=len(watches), timeout=_GONE_S, fetch_local=False)
    _give_back(placements)
    here = ray.get_runtime_context().get_node_id()
    pids = [member.info.pid for member in members if member.info is not None and member.info.node_id == here]
    _wait_until_gone(pids)


def _give_back(placements: Sequence[Any]) -> None:
    """On a thread of its own: where Ray's GCS ends just then the call waits for it for a minute, and Ray then ends this
    process with 1, though all may be done. The thread is left behind, and waits no more once Ray is left."""

    def remove() -> None:
        for placement in placements:
            with contextlib.suppress(Exception):
                remove_placement_group(placement)

    removing = threading.Thread(target=remove, name="giving places back", daemon=True)
    removing.start()
    until = time.monotonic() + _GIVEN_BACK_S
    while removing.is_alive() and not ended_servers() and time.monotonic() < until:
        removing.join(0.1)


def _wait_until_gone(pids: Sequence[int]) -> None:
    """Processes on this node must be gone before their devices are used again; a stuck one is killed."""
    until = time.monotonic() + _GONE_S
    left = list(pids)
    while left and time.monotonic() < until:
        left = [pid for pid in left if _is_worker(pid)]
        if left:
            time.sleep(0.02)
    for pid in left:
        log.warning("process %d outlived its actor and is killed", pid)
    _kill(left)


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_worker(pid: int) -> bool:
    """Whether the process is one of Ray's workers (and not one that inherited its number) and not yet gone.

    A dying process has no command line any more, but may still hold its devices until it is a zombie.
    """
    process = Path(f"/proc/{pid}")
    try:
        state = process.joinpath("stat").read_text().rpartition(")")[2].split()[0]
        command = process.joinpath("cmdline").read_bytes()
    except OSError:
        return False
    return state not in ("Z", "X") and (not command or b"ray::" in command)
