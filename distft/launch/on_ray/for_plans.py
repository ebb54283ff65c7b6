"""The Ray that plans need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from distft.config.cluster import Cluster
from distft.launch.on_ray.cluster import Cluster as Reached
from distft.launch.on_ray.cluster import connect
from distft.planning.plan import Plan


def ray_for(plans: Sequence[Plan], run_dir: Path, cluster: Cluster | None = None) -> AbstractContextManager[Reached]:
    """Ray with room for every bundle and the data worker of any of the plans; within another such block, that Ray."""
    places = [[bundle for bundles in plan.device_sets.values() for bundle in bundles] for plan in plans]
    return connect(
        num_cpus=max(
            sum(bundle.cpus for bundle in bundles) + plan.data_worker.cpus
            for plan, bundles in zip(plans, places, strict=True)
        ),
        num_gpus=max(math.ceil(sum(bundle.gpus for bundle in bundles)) for bundles in places),
        run_dir=run_dir,
        open_agents=cluster is not None and cluster.authentication == "none",
    )
