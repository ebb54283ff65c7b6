"""The actors of a group: they say where they are, get their ranks, and construct their workers; later another may take
the place of one that has died."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distft.groups import worker_start
from distft.groups.bundles import GroupSpec, Where, gpu_share, local_ranks, rank_order
from distft.groups.handles import WorkerInfo
from distft.groups.shell import Birth, Tenant
from distft.groups.worker_group import Answers, Asked, Member, RankActor

log = logging.getLogger(__name__)

# Made once: Ray's GCS keeps each one that is made, as long as it lives.
_RANK = ray.remote(concurrency_groups={"watch": 1, "pulse": 1})(RankActor)  # type: ignore[call-overload]


class Starting:
    """A group on its way: first its actors say where they are, then they construct their workers, those of the groups
    that live with it too."""

    def __init__(
        self, spec: GroupSpec, sharing: Sequence[GroupSpec], placement: Any, answers: Answers, start_s: float,
        tenants: Sequence[GroupSpec] = (),
    ) -> None:  # fmt: skip
        self.tenants = tenants
        self.spec, self._placement, self._share = spec, placement, gpu_share(spec, sharing)
        self.members = [_actor(spec, place, self._share, placement) for place in range(spec.num_ranks)]
        for member in self.members:
            answers.watch(member)
        asked = {member.actor.where.remote(member.place): member for member in self.members}
        self.asked = Asked(spec.role, "where", asked, start_s)
        self.built = False

    def build(self, log_dir: Path, attempt: int) -> None:
        """Gives out the ranks and has the workers constructed, within what is left of the deadline."""
        member_at = {member.place: member for member in self.members}
        ranks = rank_order([outcome.report for outcome in self.asked.answers.values()], self.spec.node_of_rank)
        self.members = [member_at[where.place] for where in ranks]
        if slow := [where for where in ranks if where.not_forked]:
            log.warning("%s: %d of %d ranks could not be forked, and import by themselves, which is slow; on %s: %s",
                        self.spec.role, len(slow), len(ranks), slow[0].hostname, slow[0].not_forked)  # fmt: skip
        left_s = max(1.0, self.asked.deadline - time.monotonic())
        self.asked = Asked(self.spec.role, "start", {}, left_s)
        self.built = True
        for rank, (where, local_rank) in enumerate(zip(ranks, local_ranks(ranks), strict=True)):
            path = str(log_dir / f"{self.spec.role}-{rank}.log")
            birth = Birth(
                self.spec.role, rank, len(ranks), where.node_ip, local_rank, self.spec.worker, self.spec.spec,
                path, attempt, left_s, tuple(Tenant(one.role, one.worker, one.spec) for one in self.tenants),
                os.getcwd(),
            )  # fmt: skip
            self.asked.waiting[_born(self.members[rank], where, birth)] = self.members[rank]

    def members_as(self, role: str) -> list[Member]:
        """The actors by rank, as those of that role: this group's own, or one's that lives with it."""
        return self.members if role == self.spec.role else [replace(member, role=role) for member in self.members]

    def successor(self, dead: Member, answers: Answers, within_s: float, made: Callable[[Member], None]) -> Member:
        """A worker like that of a member that has died, in its place, once it is constructed; ``within_s`` seconds.
        ``made`` is told of its process before that."""
        assert dead.birth is not None, "it had a rank"
        member = _actor(self.spec, dead.place, self._share, self._placement)
        made(member)
        answers.watch(member)
        asked = Asked(self.spec.role, "where", {member.actor.where.remote(member.place): member}, within_s)
        answers.next([asked])
        where: Where = asked.answers[member].report
        left_s = max(1.0, asked.deadline - time.monotonic())
        birth = replace(dead.birth, node_ip=where.node_ip, deadline_s=left_s)
        answers.next([Asked(self.spec.role, "start", {_born(member, where, birth): member}, left_s)])
        return member


def born(starting: Sequence[Starting], answers: Answers, log_dir: Path, attempt: int) -> Iterator[Starting]:
    """The groups, each when all its workers are constructed."""
    left = list(starting)
    while left:
        asked = answers.next([one.asked for one in left])
        one = next(one for one in left if one.asked is asked)
        if one.built:
            left.remove(one)
            yield one
        else:
            one.build(log_dir, attempt)


def _born(member: Member, where: Where, birth: Birth) -> Any:
    """Gives a member its rank, and has its worker constructed; Ray's reference to the answer."""
    member.info = WorkerInfo(
        birth.rank, where.hostname, where.pid, where.devices, where.node_ip, where.node_id, birth.log
    )  # fmt: skip
    member.birth = birth
    return member.actor.build.remote(birth)


def _actor(spec: GroupSpec, place: int, num_gpus: float, placement: Any) -> Member:
    actor = _RANK.options(
        num_cpus=spec.cpus_per_rank,
        num_gpus=num_gpus,
        memory=spec.memory or None,
        max_restarts=0,
        max_task_retries=0,
        runtime_env={"env_vars": _environment(spec)},
        scheduling_strategy=PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=place),
    ).remote()
    return Member(spec.role, place, actor, actor.watch.remote())


def _environment(spec: GroupSpec) -> dict[str, str]:
    """Of a rank's process, and by it whether the node's fork server makes it, where this Ray is ours and has one."""
    return {**spec.env, worker_start.MODULE: spec.preloaded} if spec.preloaded else dict(spec.env)
