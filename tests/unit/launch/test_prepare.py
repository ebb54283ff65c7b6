"""Plans on paper: as the cluster file says, or on so many of its nodes."""

from __future__ import annotations

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.launch.prepare import planned


def test_so_many_nodes_in_place_of_the_files() -> None:
    run = load_recipe("llama3-dpo")
    assert planned(run, "slurm-h100").hardware.nodes == 4
    assert planned(run, "slurm-h100", nodes=16).hardware.nodes == 16
    assert planned(run, "one-node-8xh100", nodes=1).hardware.nodes == 1


@pytest.mark.parametrize(
    ("cluster", "nodes", "said"),
    [("slurm-h100", 0, "must be at least 1"), ("one-node-8xh100", 2, "one-node-8xh100 is one machine")],
)
def test_nodes_that_cannot_be(cluster: str, nodes: int, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        planned(load_recipe("llama3-dpo"), cluster, nodes=nodes)
    assert caught.value.where.startswith("--nodes")
