"""A reward model over the policy's base: over which model was its adapter trained?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from distft.common.errors import UserError
from distft.config.recipe import Recipe
from distft.launch.preflight.one_base import check_one_base
from tests.unit.launch.examples import recipe

LAYER = "model.layers.0.self_attn.q_proj"


def start(folder: Path, *, seed: int = 0, added: float = 0.0) -> Path:
    """A model whose one matrix is drawn from ``seed``, with ``added``."""
    folder.mkdir()
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)) + added
    save_file({f"{LAYER}.weight": weight}, folder / "model.safetensors")
    return folder


def over_base(tmp_path: Path, policy: str, base: str) -> Recipe:
    """PPO of a policy with a reward model that adds one everywhere to a start of seed 0, which it calls ``base``."""
    reward = start(tmp_path / "reward", added=1.0)
    (reward / "adapter").mkdir()
    said = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"], "base_model_name_or_path": base}
    (reward / "adapter" / "adapter_config.json").write_text(json.dumps(said))
    learned = {"lora_A": torch.ones(1, 8), "lora_B": torch.ones(8, 1)}
    learned = {f"base_model.model.{LAYER}.{name}.weight": tensor for name, tensor in learned.items()}
    save_file(learned, reward / "adapter" / "adapter_model.safetensors")
    models = {"policy": {"path": policy, "peft": {"r": 4}}, "reward": {"path": str(reward)}}
    return recipe("ppo", {"models": models, "placement": {"reward": {"share": "policy"}}})


@pytest.mark.parametrize("base", ["", "nobody/has-this"])
def test_the_policys_start_is_known_by_its_weights(tmp_path: Path, base: str) -> None:
    assert list(check_one_base(over_base(tmp_path, str(start(tmp_path / "policy")), base))) == []


def test_other_weights_are_refused_under_the_same_name_too(tmp_path: Path) -> None:
    """An SFT run that has been made again in its folder."""
    policy = str(start(tmp_path / "policy", seed=1))
    with pytest.raises(UserError, match="was not trained over the weights in") as caught:
        list(check_one_base(over_base(tmp_path, policy, policy)))
    assert caught.value.where == "models.reward.path"
    assert "placement.reward.share=null placement.reward.with=policy" in caught.value.hint


def test_what_is_not_here_cannot_be_compared_and_is_said(tmp_path: Path) -> None:
    run = over_base(tmp_path, "nobody/has-that", "")
    (warning,) = check_one_base(run)
    assert "trained over a model that it does not name, which cannot be compared with nobody/has-that" in warning


def test_a_hub_name_that_both_say_is_taken_at_its_word(tmp_path: Path) -> None:
    assert list(check_one_base(over_base(tmp_path, "nobody/has-this", "nobody/has-this"))) == []
