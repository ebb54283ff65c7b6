"""A Ray cluster over the bed's nodes: closed to strangers, and ranks on both nodes compute together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.bed import ROOT, BedFailed, Nodes
from tests.cluster.ray_bed import TEMPORARY, RayBed

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module")
def ray_bed(machines: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayBed]:
    with Nodes(2, tmp_path_factory.mktemp("ray")) as nodes, RayBed(nodes, cpus=2) as made:
        yield made


def test_only_who_has_the_token_is_answered(ray_bed: RayBed) -> None:
    assert ray_bed.token_path.stat().st_mode & 0o777 == 0o600
    assert ray_bed.token_path.parent.stat().st_mode & 0o777 == 0o700
    assert [ray_bed.ask("/api/version", token=token)[0] for token in ("", "0" * 64)] == [401, 403]
    status, answer = ray_bed.ask("/api/version")
    assert status == 200
    assert answer["ray_version"]


def test_ranks_on_both_nodes_add_up(ray_bed: RayBed) -> None:
    node = ray_bed.nodes[0]
    done = node.run(["python", "-m", "tests.cluster.all_reduce"], env=ray_bed.env, cwd=ROOT, timeout=180)
    answers = json.loads(done.stdout.splitlines()[-1])
    assert sorted(name for name, _ in answers) == ["n1", "n1", "n2", "n2"]
    for _, total in answers:
        assert total == [4.0 * number + 6.0 for number in range(1000)]


def test_what_the_cluster_leaves_is_counted_and_ended(machines: None, tmp_path: Path) -> None:
    with Nodes(1, tmp_path) as nodes:
        other = nodes[0].start(["sleep", "1000"])
        with RayBed(nodes) as bed:
            commands = " ".join(process.command for process in bed.processes(nodes[0]))
            # Those that change their own name and environment are the ones that a search by these would miss.
            assert all(name in commands for name in ("raylet", "gcs_server", "ray-dashboard-JobHead"))
            assert "sleep" not in commands
        assert [process.host_pid for process in nodes[0].processes()] == [other.pid]
        assert not bed.token_path.exists()


def test_a_node_that_cannot_join_is_told_with_rays_own_words(machines: None, tmp_path: Path) -> None:
    with Nodes(1, tmp_path) as nodes:
        nodes[0].run(["touch", TEMPORARY])
        with pytest.raises(BedFailed, match=rf"n1: ray start --head [^\0]*File exists: '{TEMPORARY}'"), RayBed(nodes):
            pass
        assert nodes[0].processes() == []
