"""Loading: dropout, heads, missing weights, the twin, and silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from distft.common.errors import UserError
from distft.config.models import Model
from distft.models.families.causal import load_causal
from distft.models.families.scalar import load_scalar
from distft.models.load import plain_twin, start_head
from tests.unit.models import tiny


def as_model(folder: str, **more: object) -> Model:
    return Model.model_validate({"path": folder, "dtype": "float32", **more})


def copy_of(folder: str, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / "model"))


def test_dropout_is_off_everywhere_or_as_the_model_says(model_folder: Callable[..., str]) -> None:
    folder = model_folder("gpt2")
    ids = torch.tensor([[5, 6, 7, 8]])
    for dropout in (False, True):
        module = load_causal(folder, as_model(folder), dropout=dropout).train()
        config = module.model.config
        assert {config.attn_pdrop, config.embd_pdrop, config.resid_pdrop} == {0.1 if dropout else 0.0}
        one, two = (module(input_ids=ids, select=torch.arange(4)) for _ in range(2))
        assert torch.equal(one, two) is not dropout


def test_functional_attention_dropout_is_off(model_folder: Callable[..., str]) -> None:
    folder = model_folder("llama")
    assert json.loads((Path(folder) / "config.json").read_text())["attention_dropout"] == 0.1
    module = load_causal(folder, as_model(folder), dropout=False)
    assert {layer.self_attn.attention_dropout for layer in module.model.model.layers} == {0.0}


@pytest.mark.parametrize("tied", [True, False])
def test_a_fresh_head_is_said_and_only_taken_when_allowed(model_folder: Callable[..., str], tied: bool) -> None:
    folder = model_folder("llama", tied=tied)
    module, fresh = load_scalar(folder, as_model(folder), dropout=False, new_head=True)
    assert fresh
    assert module.model.score.weight.shape == (1, 16)
    with pytest.raises(UserError, match=r"no scalar head \(score.weight\)"):
        load_scalar(folder, as_model(folder), dropout=False, new_head=False)


def test_a_trained_head_is_kept(tmp_path: Path) -> None:
    model = LlamaForSequenceClassification(LlamaConfig(**tiny.SIZES, vocab_size=tiny.VOCABULARY, num_labels=1))
    model.save_pretrained(tmp_path)
    module, fresh = load_scalar(str(tmp_path), as_model(str(tmp_path)), dropout=False, new_head=False)
    assert not fresh
    assert torch.equal(module.model.score.weight, model.score.weight)


def test_a_head_of_several_outputs_is_refused(tmp_path: Path) -> None:
    config = LlamaConfig(**tiny.SIZES, vocab_size=tiny.VOCABULARY, num_labels=3)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="its head has 3 outputs"):
        load_scalar(str(tmp_path), as_model(str(tmp_path)), dropout=False, new_head=True)


def test_a_head_of_another_name_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForSequenceClassification(BertConfig(**sizes, vocab_size=50, num_labels=1)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="BertForSequenceClassification has no head named `score`") as caught:
        load_scalar(str(tmp_path), as_model(str(tmp_path)), dropout=False, new_head=True)
    assert "decoder" in caught.value.hint


def test_missing_weights_are_an_error_not_random(model_folder: Callable[..., str], tmp_path: Path) -> None:
    folder = copy_of(model_folder("llama"), tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="weights are missing: model.layers.1.mlp.up_proj.weight"):
        load_causal(str(folder), as_model(str(folder)), dropout=False)
    with pytest.raises(UserError, match="weights are missing: model.layers.1.mlp.up_proj.weight"):
        load_scalar(str(folder), as_model(str(folder)), dropout=False, new_head=True)


def test_weights_of_another_size_are_an_error(model_folder: Callable[..., str], tmp_path: Path) -> None:
    folder = copy_of(model_folder("llama"), tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": tiny.VOCABULARY + 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="do not have the sizes"):
        load_causal(str(folder), as_model(str(folder)), dropout=False)


def test_a_torn_file_is_an_error(model_folder: Callable[..., str], tmp_path: Path) -> None:
    folder = copy_of(model_folder("llama"), tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be loaded as a causal language model"):
        load_causal(str(folder), as_model(str(folder)), dropout=False)


def test_an_encoder_decoder_or_nothing_is_no_causal_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UserError, match="causal language model"):
        load_causal(str(tmp_path), as_model(str(tmp_path)), dropout=False)
    with pytest.raises(UserError, match="no model can be read there"):
        load_causal(str(tmp_path / "none"), as_model(str(tmp_path / "none")), dropout=False)


def test_loading_prints_nothing(model_folder: Callable[..., str], capfd: pytest.CaptureFixture[str]) -> None:
    folder = model_folder("llama")
    load_scalar(folder, as_model(folder), dropout=False, new_head=True)
    load_causal(folder, as_model(folder), dropout=False)
    assert capfd.readouterr() == ("", "")


def test_the_head_starts_the_same_everywhere_at_the_papers_size() -> None:
    one, two, other = (torch.empty(1, 4095, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float32))
    start_head(one, 3)
    start_head(two, 3)
    start_head(other, 4)
    assert torch.equal(one.bfloat16(), two)
    assert not torch.equal(one, other)
    assert one.std().item() == pytest.approx(1 / 64, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", list(tiny.ARCHITECTURES))
def test_the_twin_is_the_model_once_it_has_its_weights(
    model_folder: Callable[..., str], architecture: str, dtype: torch.dtype
) -> None:
    folder = model_folder(architecture)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    torch.manual_seed(5)
    twin = plain_twin(plain, dtype, torch.device("cpu"))
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))  # building it draws nothing from the trainer's stream
    with torch.no_grad():
        for mine, theirs in zip(twin.parameters(), plain.parameters(), strict=True):
            mine.copy_(theirs)
    ids = torch.arange(3, 60)[None]
    assert torch.equal(twin(input_ids=ids).logits, plain(input_ids=ids).logits)
    assert not twin.training
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert {n: b.dtype for n, b in twin.named_buffers()} == {n: b.dtype for n, b in plain.named_buffers()}
