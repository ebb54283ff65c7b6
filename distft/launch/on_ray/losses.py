"""The nodes of a Ray cluster beside the driver's, as a run loses them: it waits for room on those that are there.

A node of the cluster that the plan does not use is a spare: groups lie on whichever nodes have room for them.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence

from distft.common.waiting import wait_until
from distft.config.cluster import Cluster as ClusterFile
from distft.groups.bundles import GroupSpec
from distft.groups.placement import shortage
from distft.launch.on_ray.cluster import Cluster, check_nodes
from distft.launch.on_ray.nodes import lost_nodes, machine_of, other_nodes, smaller_cards
from distft.planning.machine import GIB, Machine

log = logging.getLogger(__name__)

_MOST_LOSSES = 2
_LOOK_S = 2.0


class Losses:
    """Of one cluster. ``lost``: the names of the nodes that did not answer when this was last looked at."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._nodes = other_nodes()
        self._times: Counter[str] = Counter()
        self._too_small: set[str] = set()
        self.lost: list[str] = []

    @property
    def left_out(self) -> frozenset[str]:
        """The names of those that were lost twice, and may be there again, and of those whose GPUs are too small: they
        get no rank, and are not asked for any more. Never this machine's."""
        unreliable = {name for name, times in self._times.items() if times >= _MOST_LOSSES}
        return frozenset(unreliable | self._too_small) - {socket.gethostname()}

    def look(self) -> bool:
        """Whether nodes have been lost since the last look, or wait."""
        left_out = self.left_out
        self.lost = lost_nodes({node_id: name for node_id, name in self._nodes.items() if name not in left_out})
        self._times.update(set(self.lost))
        return bool(self.lost)

    def wait(
        self,
        specs: Sequence[GroupSpec],
        seconds: float,
        give_up: Callable[[], bool],
        *,
        open_agents: bool,
        gpu_memory: int = 0,
    ) -> str:
        """What is missing still after so many seconds, or when it is given up; "" once every node that Ray takes for
        alive answers, but those left out, and they have room for the groups. Raises EnvironmentFallsShort where one of
        them may not take part. One whose GPUs have less than ``gpu_memory`` bytes is left out."""
        missing = ""

        def room() -> bool:
            nonlocal missing
            there = other_nodes(self.left_out)
            silent = lost_nodes(there)  # one that is gone is among the living for a while, and would get ranks
            missing = f"{', '.join(silent)} does not answer" if silent else shortage(specs, self.left_out)
            if not missing:
                self._leave_out_smaller(open_agents, gpu_memory)
                missing = shortage(specs, self.left_out)
            self._nodes = there
            return not missing or give_up()

        wait_until(room, seconds, every_s=_LOOK_S)
        return missing

    def machine(self, cluster: ClusterFile) -> Machine:
        """What the nodes have that answer now, for a plan. Raises EnvironmentFallsShort where one of them may not take
        part, or none is of use."""
        silent = set(lost_nodes(other_nodes(self.left_out))) - {socket.gethostname()}
        is_open = cluster.authentication == "none"
        nodes, answers = check_nodes(self._cluster.address, open_agents=is_open, left_out=self.left_out | silent)
        return machine_of(nodes, answers, cluster)

    def _leave_out_smaller(self, open_agents: bool, gpu_memory: int) -> None:
        """Asks the nodes what they are; those with too small a GPU are left out from now on."""
        nodes, answers = check_nodes(self._cluster.address, open_agents=open_agents, left_out=self.left_out)
        small = smaller_cards(nodes, answers, gpu_memory)
        for name, gib in small.items():
            log.warning("%s gets no rank: its GPU has %.1f GiB, the plan counts on %.1f", name, gib, gpu_memory / GIB)
        self._too_small.update(small)
