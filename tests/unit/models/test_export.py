"""What is exported opens with Hugging Face and is what was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from distft.batches import Batch, Ragged
from distft.config.models import Model
from distft.models.buffers import kept_buffers
from distft.models.export import export_model
from distft.models.families.causal import empty_causal, load_causal
from distft.models.families.scalar import Scalar, load_scalar
from distft.models.padding import unread_token
from distft.workers.collate import collate
from tests.unit.models import tiny
from tests.unit.models.families import families, write_family


def loaded(folder: str, kind: str, dtype: Any = "bfloat16") -> Any:
    model = Model(path=folder, dtype=dtype)
    if kind == "causal":
        return load_causal(folder, model, dropout=False).model
    return load_scalar(folder, model, dropout=False, new_head=True)[0].model


def parameters(module: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["causal", "scalar"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_reopened_weights_are_identical(
    model_folder: Callable[..., str], tmp_path: Path, architecture: str, kind: str, tied: bool
) -> None:
    module = loaded(model_folder(architecture, tied=tied), kind)
    weights = {name: parameter.detach() + 0.25 for name, parameter in module.named_parameters()}
    export_model(module, weights, tiny.tokenizer(), tmp_path)
    opener = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    reopened, info = opener.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert {name for name, _ in reopened.named_parameters()} == set(weights)
    for name, parameter in reopened.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, weights[name]), name
    assert reopened.config.use_cache
    assert not module.config.use_cache
    assert reopened.config.pad_token_id == tiny.PAD
    assert AutoTokenizer.from_pretrained(tmp_path)("w7 w8").input_ids == [7, 8]


@pytest.mark.parametrize("name", families())
def test_any_family_reopens_as_it_was(tmp_path: Path, name: str) -> None:
    """Whatever transformers calls the tensors in the file: stacked experts lie apart, a head has another name."""
    module = loaded(write_family(tmp_path / "start", name), "causal", "float32").eval()
    weights = {name: tensor.clone() for name, tensor in [*module.named_parameters(), *kept_buffers(module).items()]}
    export_model(module, weights, tiny.tokenizer(), tmp_path / "out")
    reopened = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(reopened(input_ids=ids).logits, module(input_ids=ids).logits, rtol=0, atol=0)


def test_an_empty_model_has_the_generation_settings_of_its_folder(
    model_folder: Callable[..., str], tmp_path: Path
) -> None:
    """A chat model may name the end of its turns there only."""
    folder = shutil.copytree(model_folder("llama"), tmp_path / "chat")
    GenerationConfig(eos_token_id=[tiny.EOS, 7]).save_pretrained(folder)
    empty = empty_causal(str(folder), Model(path=str(folder)))
    assert empty.generation_config.eos_token_id == [tiny.EOS, 7]


def test_weights_of_other_sizes_than_the_models_are_caught(model_folder: Callable[..., str], tmp_path: Path) -> None:
    module = loaded(model_folder("gpt2"), "causal")
    weights = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    name = "transformer.h.0.mlp.c_fc.weight"
    with pytest.raises(ValueError, match=f"incomplete: {name}"):
        export_model(module, weights | {name: weights[name].T.contiguous()}, tiny.tokenizer(), tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_empty_and_missing_tensors_are_caught(model_folder: Callable[..., str], tmp_path: Path, tied: bool) -> None:
    module = loaded(model_folder("llama", tied=tied), "causal")
    weights = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(ValueError, match=f"incomplete: {name}"):
        export_model(module, weights | {name: torch.zeros(0)}, tiny.tokenizer(), tmp_path / "empty")
    del weights[name]
    with pytest.raises(ValueError, match=f"incomplete: {name}"):
        export_model(module, weights, tiny.tokenizer(), tmp_path / "missing")


def test_sampling_settings_that_cannot_be_saved_do_not_stop_the_export(
    model_folder: Callable[..., str], tmp_path: Path
) -> None:
    module = loaded(model_folder("llama"), "causal")
    kept = GenerationConfig(eos_token_id=[tiny.EOS, 7], pad_token_id=tiny.PAD)
    kept.temperature, kept.do_sample = 0.6, False
    module.generation_config = kept
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    export_model(module, weights, tiny.tokenizer(), tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written["eos_token_id"] == [tiny.EOS, 7]
    assert "temperature" not in written
    assert module.generation_config is kept


@pytest.mark.parametrize("kind", ["causal", "scalar"])
def test_what_was_switched_off_for_training_is_on_again(
    model_folder: Callable[..., str], tmp_path: Path, kind: str
) -> None:
    folder = model_folder("gpt2")
    model = Model(path=folder, dtype="float32")
    loaded_so = {"causal": load_causal, "scalar": partial(load_scalar, new_head=True)}[kind](
        folder, model, dropout=False
    )
    module = loaded_so[0] if kind == "scalar" else loaded_so
    export_model(module.model, parameters(module.model), tiny.tokenizer(), tmp_path, module.written)
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.attn_pdrop, config.embd_pdrop, config.resid_pdrop) == (0.1, 0.1, 0.1)
    assert module.model.config.attn_pdrop == 0.0


def test_generation_ends_at_the_given_tokens(model_folder: Callable[..., str], tmp_path: Path) -> None:
    module = loaded(model_folder("llama"), "causal")
    for stops, written in (((2, 7), [2, 7]), ((7,), 7)):
        export_model(module, parameters(module), tiny.tokenizer(), tmp_path / str(written), stops=stops)
        assert GenerationConfig.from_pretrained(tmp_path / str(written)).eos_token_id == written
    assert module.generation_config.eos_token_id == tiny.EOS


@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
@pytest.mark.parametrize("architecture", list(tiny.ARCHITECTURES))
def test_an_exported_reward_model_scores_as_it_did(
    model_folder: Callable[..., str], tmp_path: Path, architecture: str, pad: str
) -> None:
    """Padding that is the end of sequence too: transformers reads a score before it, and so do we."""
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = pad
    folder = model_folder(architecture)
    module, _ = load_scalar(folder, Model(path=folder, dtype="float32"), dropout=False, new_head=True)
    module.eval()
    texts = [[5, 6, 7, tiny.EOS], [8, tiny.EOS, 9, 10, 11, tiny.EOS], [12]]
    batch = Batch({"prompt_ids": Ragged.of([text[:1] for text in texts], np.int32),
                   "response_ids": Ragged.of([text[1:] for text in texts], np.int32)})  # fmt: skip
    unread = unread_token(tokenizer, module.model.config, trained=True)
    micro = collate(Scalar(), batch, [0, 1, 2], (), tiny.PAD, torch.device("cpu"), unread)
    export_model(module.model, parameters(module.model), tokenizer, tmp_path, module.written)
    reopened = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    padded = AutoTokenizer.from_pretrained(tmp_path).pad({"input_ids": texts}, return_tensors="pt")
    with torch.no_grad():
        ours = module(micro.tensors["input_ids"], micro.last)
        theirs = reopened(**padded).logits[:, 0]
        alone = [reopened(input_ids=torch.tensor([text])).logits.item() for text in texts]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert ours.tolist() == pytest.approx(alone, rel=1e-4, abs=1e-4)
    assert unread_token(tokenizer, reopened.config, trained=False) == unread  # a later run reads it there too


def test_the_token_that_pads_learns_where_it_is_text(model_folder: Callable[..., str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder("llama"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": tiny.EOS}
    (folder / "config.json").write_text(json.dumps(config))
    module, _ = load_scalar(str(folder), Model(path=str(folder), dtype="float32"), dropout=False, new_head=True)
    module(torch.tensor([[5, tiny.EOS, 6, tiny.EOS]]), torch.tensor([2])).sum().backward()
    assert module.model.get_input_embeddings().weight.grad[tiny.EOS].abs().max() > 0  # type: ignore[index]
