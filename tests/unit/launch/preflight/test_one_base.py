"""A reward model over the policy's base: over which model was its adapter trained?"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.recipe import Recipe
from distft.launch.preflight.one_base import check_one_base
from tests.unit.launch.examples import model_folder, recipe


def over_base(tmp_path: Path, base: str) -> Recipe:
    """PPO of the policy in ``base`` with a reward model whose adapter was trained over that in ``base``."""
    policy = tmp_path / "policy"
    if not policy.exists():
        model_folder(policy)
    reward = model_folder(tmp_path / "reward", head=(1, 8))
    (reward / "adapter").mkdir()
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "base_model_name_or_path": base}
    (reward / "adapter" / "adapter_config.json").write_text(json.dumps(said))
    (reward / "adapter" / "adapter_model.safetensors").touch()
    models = {"policy": {"path": str(policy), "peft": {"r": 4}}, "reward": {"path": str(reward)}}
    return recipe("ppo", {"models": models, "placement": {"reward": {"share": "policy"}}})


def test_the_policys_start_and_a_copy_of_it_are_taken(tmp_path: Path) -> None:
    assert list(check_one_base(over_base(tmp_path, str(tmp_path / "policy")))) == []
    shutil.copytree(tmp_path / "policy", tmp_path / "copy")
    shutil.rmtree(tmp_path / "reward")
    assert list(check_one_base(over_base(tmp_path, str(tmp_path / "copy")))) == []


def test_another_model_of_the_same_sizes_is_refused(tmp_path: Path) -> None:
    other = model_folder(tmp_path / "other")
    path = other / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="whose weights are others") as caught:
        list(check_one_base(over_base(tmp_path, str(other))))
    assert caught.value.where == "models.reward.path"
    assert f"models.policy.path={other}" in caught.value.hint


def test_what_is_not_here_cannot_be_compared_and_is_said(tmp_path: Path) -> None:
    (warning,) = check_one_base(over_base(tmp_path, "nobody/has-this"))
    assert "trained over nobody/has-this, which cannot be compared" in warning
