"""Plans on paper: as the cluster file says, or on so many of its nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.load import load_recipe
from distft.launch.prepare import planned, prepare


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


def test_a_dry_run_for_slurm_works_on_a_login_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    recipe = load_recipe("sft-tiny")
    assert prepare(recipe, "slurm-cpu", dry_run=True).plan.hardware.nodes == 2
    with pytest.raises(EnvironmentFallsShort, match="this is a slurm cluster.*\n  distft submit slurm starts it there"):
        prepare(recipe, "slurm-cpu")
