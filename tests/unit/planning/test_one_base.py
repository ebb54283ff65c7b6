"""The four roles of PPO over one base, in bytes: what each adds to it, and that a card holds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.planning.footprint import group_memory
from distft.planning.known_models import known_config
from distft.planning.lora_folder import lora_beside
from distft.planning.memory import Item
from distft.planning.plan import Plan, make_plan

LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"
SAID = {
    "peft_type": "LORA",
    "r": 16,
    "lora_alpha": 32,
    "target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"],
    "base_model_name_or_path": LLAMA,
}


def reward_model(folder: Path, **said: object) -> Path:
    """Without weights: a plan does not read them."""
    (folder / "adapter").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(known_config(LLAMA)))
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(SAID | said))
    (folder / "adapter" / "adapter_model.safetensors").touch()
    return folder


def plan_of(folder: Path, *keys: str) -> Plan:
    changes = ["models.policy.peft.method=lora", f"models.reward.path={folder}", *keys]
    cluster = load_cluster("slurm-h100")
    node = cluster.node.model_copy(update={"gpus": 1, "cpus": 16})
    return make_plan(load_recipe("llama3-ppo", changes), cluster.model_copy(update={"nodes": 1, "node": node}))


def test_ppo_of_eight_billion_fits_one_card_with_all_its_roles_awake(tmp_path: Path) -> None:
    """15.0 GiB of weights once, and once more for the generator; of groups of their own three sleep in turn."""
    folder = reward_model(tmp_path / "final")
    together = plan_of(folder, *(f"placement.{role}.share=policy" for role in ("reference", "value", "reward")))
    assert together.fits
    assert together.num_devices == 1
    (card,) = [load for load in together.loads if load.kind == "gpu"]
    assert 45 < card.bytes / 2**30 < 55
    assert set(together.groups) == {"policy"}
    assert not together.turns["policy"].asleep
    assert "reference, reward, value in the policy's processes, over its base, which is held once" in together.notes
    apart = plan_of(folder)
    assert any(turn.asleep for turn in apart.turns.values())


def test_a_role_over_the_base_adds_its_adapter_its_head_and_what_they_train_with(tmp_path: Path) -> None:
    folder = reward_model(tmp_path / "final")
    keys = ["models.policy.peft.r=16", "models.policy.peft.target_modules=[q_proj]"]
    plan = plan_of(folder, *keys, *(f"placement.{role}.share=policy" for role in ("reference", "value", "reward")))
    adapter, head = 32 * 16 * (4096 + 4096), 4096
    held = {role: {item.name: item.bytes for item in plan.memory[role].items} for role in ("value", "reward")}
    assert held["value"]["parameters"] == held["reward"]["parameters"] == 2 * (adapter + head)
    assert held["value"]["master weights"] == 4 * (adapter + head)
    assert held["value"]["optimizer states"] == 8 * (adapter + head)
    assert "optimizer states" not in held["reward"]
    assert "process" not in held["value"].keys() | held["reward"].keys()
    assert held["value"]["activations"] > 0


def test_roles_of_one_process_have_what_passes_one_after_the_other() -> None:
    policy = [Item("parameters", 8), Item("activations", 10, "training"), Item("key-value cache", 7, "generation")]
    value = [Item("parameters", 1), Item("activations", 12, "training"), Item("on the way", 3, "training", "host")]
    found = group_memory(policy, value, gpu=True)
    assert found.awake == 8 + 1 + 12
    assert found.node == {"training": 3}
    assert group_memory(policy, value, gpu=False).node == {"always": 9, "training": 15, "generation": 7}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"peft_type": "IA3"}, "holds IA3"),
        ({"use_dora": True}, "holds LORA with use_dora"),
        ({"bias": "all"}, "plain LoRA can lie over another model's base"),
        ({"target_modules": "all-linear"}, "plain LoRA"),
        ({"r": 0}, "cannot be read"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(tmp_path: Path, said: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        lora_beside(str(reward_model(tmp_path / "final", **said)), "models.reward.path")
    assert "placement.reward.with=policy" in caught.value.hint


def test_what_lies_beside_a_model_is_told_by_the_last_part_of_its_layers_names(tmp_path: Path) -> None:
    found = lora_beside(str(reward_model(tmp_path / "final")), "models.reward.path")
    assert (found.lora.r, found.lora.alpha, found.lora.target_modules) == (16, 32.0, ("q_proj",))
    assert found.base == LLAMA
    (found.folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="has no adapter beside it"):
        lora_beside(str(tmp_path / "final"), "models.reward.path")
