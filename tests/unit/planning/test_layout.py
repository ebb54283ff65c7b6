"""Of the arrangements that fit, the quickest; the same every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.planning.footprint import SizeBook
from distft.planning.hardware import hardware_of
from distft.planning.layout import ALIKE, Study, best_layout, fits
from distft.planning.machine import Machine
from distft.planning.plan import make_plan
from tests.unit.launch.examples import LAPTOP, LLAMA_8B, config_folder, gpu_cluster, recipe

TINY = ("sft-tiny", "reward-tiny", "dpo-tiny", "ppo-tiny")
UNKNOWN_NETWORK = {"bandwidth_gbps": None}
EIGHT_B = "meta-llama/Meta-Llama-3-8B"


def llama3(kind: str, *overrides: str) -> Recipe:
    return load_recipe(f"llama3-{kind}", list(overrides))


@pytest.mark.parametrize(("kind", "nodes"), [("dpo", 1), ("dpo", 16), ("ppo", 1), ("ppo", 8)])
def test_nothing_that_fits_is_clearly_quicker(kind: str, nodes: int) -> None:
    run, hardware = llama3(kind), hardware_of(gpu_cluster(nodes), None)
    chosen = best_layout(run, hardware)
    assert chosen.fits
    assert chosen.estimate is not None
    study = Study(run, hardware, SizeBook())
    fitting = [layout for layout in map(study.layout, study.arrangements(fewer=True)) if layout.fits]
    assert len(fitting) > 1
    for layout in fitting:
        assert layout.estimate is not None
        assert layout.estimate.seconds * ALIKE >= chosen.estimate.seconds


def test_of_what_takes_as_long_the_fewest_gpus_are_taken() -> None:
    """PPO whose generation from shards takes nearly all of the time: more GPUs for the rest would be idle."""
    found = best_layout(
        llama3("ppo", "rollout.weights=sharded", "train.global_batch_size=16"), hardware_of(gpu_cluster(64), None)
    )
    assert found.estimate is not None
    assert sum(found.arrangement.ranks.values()) <= 64


def test_a_small_step_leaves_gpus_over() -> None:
    """Eight pairs on 1,024 nodes: among thousands of ranks the start of a collective costs more than they bring."""
    found = best_layout(llama3("dpo", "train.global_batch_size=8"), hardware_of(gpu_cluster(1024), None))
    assert sum(found.arrangement.ranks.values()) < 256
    plan = make_plan(llama3("dpo", "train.global_batch_size=8"), gpu_cluster(1024))
    assert any("GPUs are left over" in note for note in plan.notes)


@pytest.mark.parametrize("kind", ["dpo", "ppo"])
def test_the_same_question_has_the_same_answer(kind: str) -> None:
    first, second = (make_plan(llama3(kind), gpu_cluster(4)).model_dump_json() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("cluster", ["local", "slurm-cpu"])
def test_the_tiny_recipes_keep_two_ranks_a_role_and_on_two_nodes_one_on_each(name: str, cluster: str) -> None:
    machine = LAPTOP if cluster == "local" else None
    plan = make_plan(load_recipe(name), load_cluster(cluster), machine=machine)
    for role, group in plan.groups.items():
        assert group.device_set == role
        assert group.node_of_rank == ((0, 1) if cluster == "slurm-cpu" else (0, 0))
    assert plan.estimate is None
    assert plan.estimate_unknown == "of CPU clusters none is made"


@pytest.mark.parametrize(("nodes", "expected"), [(1, (0, 0)), (2, (0, 1)), (4, (0, 1, 2, 3))])
def test_auto_on_cpus_needs_no_estimate(nodes: int, expected: tuple[int, ...]) -> None:
    plan = make_plan(recipe("dpo"), load_cluster("ray-existing"), machine=Machine(nodes=nodes, cpus=4, memory_gib=16.0))
    assert {group.node_of_rank for group in plan.groups.values()} == {expected}


def test_unknown_rates_leave_the_plainest_that_fits() -> None:
    """A machine whose GPUs the cluster file does not describe."""
    machine = Machine(cpus=16, memory_gib=64.0, gpus=4, gpu_memory_gib=79.0)
    local = load_cluster("local")
    cluster = local.model_copy(update={"node": local.node.model_copy(update={"gpus": "auto"})})
    plan = make_plan(recipe("dpo"), cluster, machine=machine)
    assert {role: group.num_ranks for role, group in plan.groups.items()} == {"policy": 2, "reference": 2}
    assert plan.estimate_unknown == "the cluster file does not say node.gpu (distft calibrate measures it)"


def test_where_nodes_have_too_little_memory_for_all_gpus_fewer_are_taken() -> None:
    """Eighteen processes of a tiny model need more than two nodes of 15 GiB have; a step's time is not known."""
    cluster = gpu_cluster(2)
    node = cluster.node.model_copy(update={"memory_gib": 15.0, "gpus": 9})
    small = cluster.model_copy(update={"node": node, "network": cluster.network.model_copy(update=UNKNOWN_NETWORK)})
    found = best_layout(load_recipe("sft-tiny"), hardware_of(small, None))
    assert found.unknown
    assert found.fits
    assert 0 < sum(found.arrangement.ranks.values()) < 18


@settings(max_examples=25)
@given(nodes=st.integers(1, 64), memory=st.floats(20, 200), kind=st.sampled_from(["dpo", "ppo"]))
def test_more_nodes_never_stop_fitting_and_the_chosen_one_fits(nodes: int, memory: float, kind: str) -> None:
    run, book = llama3(kind), SizeBook()

    def on(count: int) -> Any:
        return hardware_of(gpu_cluster(count, memory_gib=memory), None)

    enough = fits(run, on(nodes), book)
    assert best_layout(run, on(nodes), book).fits is enough
    if enough:
        assert fits(run, on(2 * nodes), book)


def test_config_folders_and_known_names_are_planned_alike(tmp_path: Path) -> None:
    folder = config_folder(tmp_path, LLAMA_8B)
    by_name = make_plan(llama3("dpo", f"models.policy.path={EIGHT_B}"), gpu_cluster(2))
    by_folder = make_plan(llama3("dpo", f"models.policy.path={folder}"), gpu_cluster(2))
    assert by_name == by_folder
