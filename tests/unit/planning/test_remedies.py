"""What would make it fit is tried, not guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distft.config.adapters.ia3 import Ia3
from distft.config.cluster import Cluster
from distft.config.load import check_recipe, load_recipe, resolved_yaml
from distft.config.recipe import Recipe
from distft.config.roles import model_of
from distft.config.yaml_file import parse_yaml
from distft.planning.plan import make_plan
from distft.planning.remedies import Tried, remedies, with_overrides
from tests.unit.launch.examples import (
    LLAMA_8B,
    LLAMA_70B,
    config_folder,
    cpu_cluster,
    from_folder,
    gpu_cluster,
    recipe,
)


def followed(start: Recipe, change: str, tmp_path: Path) -> Recipe:
    """The recipe as a user would start it again, with the remedy on the command line."""
    path = tmp_path / "again.yaml"
    path.write_text(resolved_yaml(start))
    return load_recipe(str(path), change.split())


@pytest.mark.parametrize(
    ("kind", "config", "nodes"),
    [("dpo", LLAMA_70B, 2), ("dpo", LLAMA_70B, 4), ("ppo", LLAMA_70B, 4), ("sft", LLAMA_8B, 1)],
)
def test_each_remedy_followed_on_the_command_line_fits(
    kind: str, config: dict[str, Any], nodes: int, tmp_path: Path
) -> None:
    tokens = {"train.max_tokens_per_rank": 16384, "train.global_batch_size": 4096}
    start = from_folder(kind, config_folder(tmp_path / "model", config), tokens)
    plan = make_plan(start, gpu_cluster(nodes))
    assert plan.fits is False
    assert plan.remedies
    for remedy in plan.remedies:
        if remedy.change.endswith(f"nodes in place of {nodes}"):
            more = int(remedy.change.split()[0])
            assert make_plan(start, gpu_cluster(more)).fits is True
            assert make_plan(start, gpu_cluster(more - 1)).fits is False
        else:
            assert make_plan(followed(start, remedy.change, tmp_path), gpu_cluster(nodes)).fits is True


def test_adapters_are_no_remedy_beside_new_tokens(tmp_path: Path) -> None:
    changes = {"train.max_tokens_per_rank": 16384, "train.global_batch_size": 4096}
    folder = config_folder(tmp_path, LLAMA_70B)
    for more in ({}, {"models.policy.extend_vocabulary": ["a cat"]}):
        plan = make_plan(from_folder("sft", folder, changes | more), gpu_cluster())
        assert plan.fits is False
        assert any(".peft" in remedy.change for remedy in plan.remedies) == (not more)


def test_a_policy_without_a_base_of_its_own_is_offered_nothing_that_needs_one(tmp_path: Path) -> None:
    """Weights that are trained can be no reference, and not in four bits."""

    def fits(changed: Recipe, _cluster: Cluster) -> bool:
        quantized = model_of(changed, "policy").quantization is not None
        return quantized or changed.placement.of("reference").share is not None

    folder, keys = config_folder(tmp_path / "model", LLAMA_8B), {"method": "selective", "train": ["*.bias"]}
    selective = from_folder("dpo", folder, {"models.policy.peft": keys})
    tried = Tried(fits=fits, seconds=lambda _recipe, _cluster: None)
    assert remedies(selective, cpu_cluster(), tried, gpu=False) == ()
    adapted = with_overrides(selective, {"models.policy.peft": Ia3(method="ia3")})
    shared, quantized = remedies(adapted, cpu_cluster(), tried, gpu=False)
    assert shared.change == "placement.reference.share=policy"
    assert "models.policy.quantization.method=nf4" in quantized.change
    assert "peft" not in quantized.change


def test_checkpointing_alone_is_named_where_it_is_enough(tmp_path: Path) -> None:
    changes = {"train.max_tokens_per_rank": 16384, "train.global_batch_size": 4096}
    plan = make_plan(from_folder("sft", config_folder(tmp_path, LLAMA_8B), changes), gpu_cluster())
    assert "models.policy.gradient_checkpointing=true" in [remedy.change for remedy in plan.remedies]


def test_a_reference_may_be_kept_in_place_of_its_group(tmp_path: Path) -> None:
    """Where all are in the memory of one machine; not one that follows the policy."""
    folder, cluster = config_folder(tmp_path / "model", LLAMA_8B), cpu_cluster(memory_gib=180)
    plan = make_plan(from_folder("dpo", folder), cluster)
    assert plan.fits is False
    assert "algorithm.reference=cached" in [remedy.change for remedy in plan.remedies]
    follows = make_plan(from_folder("dpo", folder, {"algorithm.sync_every": 2}), cluster)
    assert follows.remedies
    assert not [remedy for remedy in follows.remedies if "cached" in remedy.change]


def test_a_lower_stage_is_raised(tmp_path: Path) -> None:
    start = from_folder("sft", config_folder(tmp_path, LLAMA_8B), {"models.policy.engine": {"zero_stage": 0}})
    plan = make_plan(start, gpu_cluster())
    assert plan.remedies[0].change == "models.policy.engine.zero_stage=3"


@pytest.mark.parametrize(("key", "on", "off", "gib"), [("asynchronous", True, False, 45), ("memory_every", 1, 0, 179)])
def test_copies_of_the_states_are_left_out_where_there_is_no_room_for_them(
    tmp_path: Path, key: str, on: bool | int, off: bool | int, gib: int
) -> None:
    """Of 8 B parameters on two nodes each keeps a copy of 45 GiB: 12 bytes of each, and half of them; in memory two of
    its own and two of the other's."""

    def with_memory(gib: float) -> Cluster:
        cluster = gpu_cluster(2)
        return cluster.model_copy(update={"node": cluster.node.model_copy(update={"memory_gib": gib})})

    start = from_folder("sft", config_folder(tmp_path / "model", LLAMA_8B), {f"checkpoint.{key}": on})
    fitting = make_plan(with_overrides(start, {f"checkpoint.{key}": off}), gpu_cluster(2))
    needed = {load.kind: load.bytes for load in fitting.loads}["node"]
    assert fitting.fits is True
    plan = make_plan(start, with_memory(needed / 2**30 + gib - 1))
    assert plan.fits is False
    assert make_plan(start, with_memory(needed / 2**30 + gib + 1)).fits is True
    assert f"checkpoint.{key}={off}".lower() in [remedy.change for remedy in plan.remedies]


def test_nothing_helps_a_hopeless_case(tmp_path: Path) -> None:
    plan = make_plan(from_folder("ppo", config_folder(tmp_path, LLAMA_70B)), cpu_cluster(memory_gib=1))
    assert plan.fits is False
    assert plan.remedies == ()


def test_overrides_leave_the_rest_of_the_recipe_alone() -> None:
    start = recipe("ppo")
    before = start.model_dump_json()
    changed = with_overrides(start, {"models.value.gradient_checkpointing": True, "train.max_tokens_per_rank": 512})
    assert model_of(changed, "value").gradient_checkpointing
    assert not model_of(changed, "policy").gradient_checkpointing
    assert changed.train.max_tokens_per_rank == 512
    assert start.model_dump_json() == before
    again = check_recipe(parse_yaml(resolved_yaml(changed), "again.yaml"))
    assert model_of(again, "value").init == model_of(start, "value").init


def test_the_smallest_change_comes_first_and_of_those_that_change_no_result_the_quickest(tmp_path: Path) -> None:
    changes = {"models": {"policy": {"path": str(config_folder(tmp_path, LLAMA_70B)), "dtype": "bfloat16"}},
               "data.max_length": 2048, "data.max_prompt_length": 512, "train.max_tokens_per_rank": 4096,
               "train.global_batch_size": 512}  # fmt: skip
    plan = make_plan(recipe("dpo", changes), gpu_cluster(64))
    assert plan.fits is False
    kinds = [
        "hardware" if " nodes in place of " in one.change else "learning" if "max_length" in one.change else "computing"
        for one in plan.remedies
    ]
    assert kinds == sorted(kinds, key=("computing", "hardware", "learning").index)
    assert {"computing", "learning"} <= set(kinds)
    seconds = [one.seconds for one, kind in zip(plan.remedies, kinds, strict=True) if kind == "computing"]
    assert None not in seconds
    assert seconds == sorted(seconds, key=lambda one: one or 0.0)


def test_ranks_that_the_recipe_gives_may_be_left_to_the_plan(tmp_path: Path) -> None:
    """Two trained 8B models on one GPU each do not fit; on a node of eight there is room."""
    placement = {role: {"ranks": 1} for role in ("policy", "reference", "reward", "value")}
    start = from_folder("ppo", config_folder(tmp_path / "model", LLAMA_8B), {"placement": placement})
    plan = make_plan(start, gpu_cluster(1))
    (change,) = (remedy.change for remedy in plan.remedies if "placement" in remedy.change)
    assert change.split() == [f"placement.{role}.ranks=auto" for role in placement]
    assert make_plan(followed(start, change, tmp_path), gpu_cluster(1)).fits is True
