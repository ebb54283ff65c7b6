"""Files of a model that would run as code: weights as pickles, code that comes with it."""

from __future__ import annotations

import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.config.models import Policy
from distft.launch.named_models import NamedModel, Reading
from distft.launch.preflight.models import check_folder, check_models
from distft.models.adapters.merging import merge_adapter
from distft.models.families.causal import load_causal
from tests.reference.tiny_models import save_llama, train_tokenizer


class Bomb:
    """What a pickle may be: reading it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_llama(tmp_path / "it's a model", tokenizer=train_tokenizer(["Why? Because."] * 9, 300))
    return tmp_path / "it's a model"


def test_a_pickle_for_weights_is_never_read(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(UserError, match=r"holds its weights as a pickle \(pytorch_model.bin\)"):
        check_folder(folder, "models.policy.path")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_causal(str(folder), Policy(path=str(folder), dtype="float32"), dropout=False)
    assert not mark.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert mark.exists(), "it would have run"


def test_the_remedy_for_weights_that_are_no_attack(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        check_folder(folder, "models.policy.path")
    command = caught.value.hint.partition("once: python ")[2]
    subprocess.run([sys.executable, *shlex.split(command)], check=True, capture_output=True)
    check_folder(folder, "models.policy.path")
    found = load_file(folder / "model.safetensors")
    assert all(torch.equal(found[name], weights[name]) for name in found)


def test_a_name_in_a_config_gets_into_no_remedy(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    config.architectures = ["x; __import__('os').system('touch owned')"]
    config.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(UserError) as caught:
        check_folder(folder, "models.policy.path")
    assert "owned" not in str(caught.value)


def test_a_pickle_for_an_adapter_is_never_read(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "target_modules": ["q_proj"], "r": 4}')
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    model = load_causal(str(folder), Policy(path=str(folder), dtype="float32"), dropout=False).model
    with pytest.raises(UserError, match="no adapter_model.safetensors"):
        merge_adapter(model, str(adapter))
    assert not mark.exists()


def test_code_comes_from_a_folder_of_the_users_and_from_no_hub() -> None:
    recipe = load_recipe("sft-tiny", ["models.policy={path: some/model, trust_remote_code: true}"])
    copy = "hf download some/model --revision COMMIT --local-dir model"
    with pytest.raises(UserError, match=f"another tomorrow\n  {copy}"):
        list(check_models(recipe))
    with pytest.raises(UserError, match="another tomorrow"):
        NamedModel("some/model", "some/model", None, None).section(Reading(trust_remote_code=True))


@pytest.mark.parametrize("path", ["./modles/mine", "/models/mine", "~/mine", "a/b/c"])
def test_a_folder_that_is_not_there_is_no_name_of_the_hub(path: str) -> None:
    with pytest.raises(UserError, match="there is no folder") as caught:
        list(check_models(load_recipe("sft-tiny", [f"models.policy={{path: {path}, trust_remote_code: true}}"])))
    assert "hf download" not in caught.value.hint


def test_a_name_that_would_be_a_command_is_quoted(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        NamedModel("x", "a/$(touch owned)", None, None).section(Reading(trust_remote_code=True))
    assert re.search(r"hf download 'a/\$\(touch owned\)' --revision", caught.value.hint)
