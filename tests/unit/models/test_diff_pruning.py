"""Sparse differences: where they lie, and that what is kept of them is what was computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from distft.common.errors import UserError
from distft.config.adapters.diff_pruning import DiffPruning
from distft.config.fewer_bits import QuantizationMethod
from distft.config.models import Quantization
from distft.models.adapters.adapt import add_adapters, without_adapters
from distft.models.adapters.merging import merge_adapter, plain_tensors
from distft.models.export import export_adapter
from distft.models.quantization import as_bitsandbytes
from tests.unit.models.encoder_decoders import write_encoder_decoder

IDS = torch.arange(10, 24).unsqueeze(0)
DIFF = DiffPruning(method="diff_pruning")


@torch.no_grad()
def changed(model: Any, diff: DiffPruning = DIFF) -> dict[str, torch.Tensor]:
    """Gives it a difference of which one number in ten is not zero; what is trained of it."""
    add_adapters(model, diff, dropout=False, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if name.endswith(".values"):
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        elif name.endswith(".gates"):
            parameter.copy_(torch.where(torch.rand(parameter.shape, generator=generator) < 0.1, 0.5, -5.0))
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
@torch.no_grad()
def test_what_is_kept_is_what_was_merged(model_folder: Callable[..., str], tmp_path: Path, architecture: str) -> None:
    """Of GPT-2, whose layers are stored transposed, and T5, which asks its layers for their dtype, too."""
    apart = architecture == "t5"
    folder = write_encoder_decoder(tmp_path / "start", "flan-t5") if apart else model_folder(architecture)
    kind: Any = AutoModelForSeq2SeqLM if apart else AutoModelForCausalLM
    said: dict[str, Any] = {"input_ids": IDS} | ({"decoder_input_ids": IDS[:, :5]} if apart else {})
    base, model = (kind.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2))
    plain = base(**said).logits
    fresh = kind.from_pretrained(folder, dtype=torch.float32).eval()
    add_adapters(fresh, DIFF, dropout=False, seed=1)
    assert torch.equal(fresh(**said).logits, plain)
    learned = changed(model)
    wanted = model(**said).logits
    assert (wanted - plain).abs().max() > 1e-3
    with without_adapters(model):
        assert torch.equal(model(**said).logits, plain)
    weights = dict(plain_tensors(((n, p.data) for n, p in model.named_parameters()), model))
    assert weights.keys() == dict(base.named_parameters()).keys()
    moved = [int((weights[name] != p).sum()) for name, p in base.named_parameters()]
    total = sum(tensor.numel() for name, tensor in learned.items() if name.endswith(".values"))
    assert 0.08 * total < sum(moved) < 0.12 * total

    export_adapter(model, learned, folder, tmp_path / "kept", "CAUSAL_LM")
    said_of_it = json.loads((tmp_path / "kept" / "adapter_config.json").read_text())
    assert (said_of_it["peft_type"], said_of_it["adapter"]["method"]) == ("DISTFT_DIFFERENCE", "diff_pruning")
    kept = load_file(tmp_path / "kept" / "adapter_model.safetensors")
    assert sum(tensor.numel() for name, tensor in kept.items() if name.endswith(".places")) == sum(moved)
    read = merge_adapter(base, str(tmp_path / "kept"))
    assert all(torch.equal(weights[name], parameter) for name, parameter in read.named_parameters())
    torch.testing.assert_close(read(**said).logits, wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_layers_that_are_not_changed_are_not_kept(model_folder: Callable[..., str], tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    learned = changed(model, DIFF.model_copy(update={"target_modules": ("q_proj", "up_proj")}))
    owners = {name.partition(".pruned_difference")[0].rpartition(".")[2] for name in learned}
    assert owners == {"q_proj", "up_proj"}
    for part in model.modules():
        if hasattr(part, "pruned_difference"):
            part.pruned_difference.settled.zero_()
    export_adapter(model, learned, "base", tmp_path, "CAUSAL_LM")
    assert load_file(tmp_path / "adapter_model.safetensors") == {}


@torch.no_grad()
def test_a_difference_to_another_model_is_refused(model_folder: Callable[..., str], tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    export_adapter(model, changed(model), "base", tmp_path, "CAUSAL_LM")
    file = tmp_path / "adapter_model.safetensors"
    whole = load_file(file)
    first = next(name for name in whole if name.endswith(".places"))
    save_file(whole | {first: whole[first] + 10_000}, file)
    for base in (AutoModelForCausalLM.from_pretrained(model_folder(name)) for name in ("llama", "gpt2")):
        with pytest.raises(UserError, match="cannot be put into"):
            merge_adapter(base, str(tmp_path))


@pytest.mark.parametrize("method", ["nf4", "int8"])
@torch.no_grad()
def test_a_difference_to_quantized_weights_is_refused(
    model_folder: Callable[..., str], tmp_path: Path, method: QuantizationMethod
) -> None:
    """In eight bits a weight has as many numbers as it had: changes would be added to the codes."""
    folder = model_folder("llama")
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    export_adapter(model, changed(model), folder, tmp_path, "CAUSAL_LM")
    kind = as_bitsandbytes(Quantization(method=method), torch.float32)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=kind)
    with pytest.raises(UserError, match="changes single numbers of the weights") as raised:
        merge_adapter(base, str(tmp_path))
    assert "--quantization" in (raised.value.hint or "")
