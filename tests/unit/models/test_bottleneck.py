"""Small networks behind layers and beside blocks: where they stand, and that what is kept is what was computed."""

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
from distft.config.adapters.bottleneck import _LAST, Bottleneck, Network, Parallel
from distft.config.models import Model
from distft.models.adapters.adapt import add_adapters, without_adapters
from distft.models.adapters.merging import merge_adapter, plain_tensors
from distft.models.export import export_adapter
from distft.models.families.causal import load_causal
from tests.unit.models.encoder_decoders import write_encoder_decoder
from tests.unit.models.families import FAMILIES, families, write_family

IDS = torch.arange(10, 24).unsqueeze(0)
BEHIND = Bottleneck(method="bottleneck", bottleneck_size=4)
BESIDE = Parallel(method="parallel", bottleneck_size=4, activation="gelu")
KNOWN = [name for name, (family, _) in FAMILIES.items() if family in _LAST]


def adapted(folder: str, network: Network, dtype: Any = "float32") -> Any:
    module: Any = load_causal(folder, Model(path=folder, dtype=dtype), dropout=False).eval()
    add_adapters(module.model, network, dropout=False, seed=1)
    return module


def trained(module: Any) -> dict[str, torch.Tensor]:
    """Its parameters that are trained, none of them zero any more."""
    generator = torch.Generator().manual_seed(2)
    found = {name.removeprefix("model."): p for name, p in module.named_parameters() if p.requires_grad}
    for parameter in found.values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return {name: parameter.detach() for name, parameter in found.items()}


@pytest.mark.parametrize("name", families("gpt_neox", "phi3_longrope", "gemma2", of=KNOWN))
@pytest.mark.parametrize("network", [BEHIND, BESIDE], ids=["behind", "beside"])
@torch.no_grad()
def test_they_are_kept_and_read_over_a_fresh_base(tmp_path: Path, name: str, network: Network) -> None:
    """Nothing changes until they are trained, or where they are switched off; no weight of the model's own does."""
    folder, kept = write_family(tmp_path / "start", name), tmp_path / "kept"
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    plain = base(input_ids=IDS).logits
    if network is BESIDE and base.config.model_type == "opt":
        with pytest.raises(UserError, match="which layers of OPTForCausalLM end its attention and MLP is not known"):
            adapted(folder, network)
        return
    module = adapted(folder, network)
    assert torch.equal(module.model(input_ids=IDS).logits, plain)
    learned = trained(module)
    layers = base.config.get_text_config().num_hidden_layers
    assert len(learned) == 4 * layers * (1 if network is BESIDE else 2)
    wanted = module.model(input_ids=IDS).logits
    assert (plain - wanted).abs().max() > 1e-3
    with without_adapters(module):
        assert torch.equal(module.model(input_ids=IDS).logits, plain)
    weights = dict(plain_tensors(((n, p.data) for n, p in module.named_parameters()), module))
    assert weights.keys() == {f"model.{one}" for one, _ in base.named_parameters()}
    assert all(torch.equal(weights[f"model.{one}"], parameter) for one, parameter in base.named_parameters())

    export_adapter(module.model, learned, folder, kept, "CAUSAL_LM")
    said = json.loads((kept / "adapter_config.json").read_text())
    assert (said["peft_type"], said["base_model_name_or_path"]) == ("DISTFT_NETWORK", folder)
    assert torch.equal(merge_adapter(base, str(kept))(input_ids=IDS).logits, wanted)


def test_the_layers_that_are_named_have_one(model_folder: Callable[..., str]) -> None:
    """Of GPT-2, whose layers are stored transposed, and whose names for the last ones of attention and MLP are one."""
    folder = model_folder("gpt2")
    module = adapted(folder, BEHIND.model_copy(update={"target_modules": ("c_proj",)}))
    owners = {name.partition(".bottleneck.")[0] for name, p in module.named_parameters() if p.requires_grad}
    assert owners == {f"model.transformer.h.{n}.{part}.c_proj" for n in (0, 1) for part in ("attn", "mlp")}
    beside = adapted(folder, BESIDE.model_copy(update={"target_modules": ("c_proj",)}))
    owners = {name.partition(".bottleneck.")[0] for name, p in beside.named_parameters() if p.requires_grad}
    assert owners == {f"model.transformer.h.{n}.{part}" for n in (0, 1) for part in ("attn", "mlp")}
    before = beside.model(input_ids=IDS).logits
    trained(beside)
    assert not torch.equal(beside.model(input_ids=IDS).logits, before)


@torch.no_grad()
def test_of_an_encoder_decoder_the_layers_that_are_named(tmp_path: Path) -> None:
    folder = write_encoder_decoder(tmp_path / "start", "flan-t5")
    model, base = (AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2))
    with pytest.raises(UserError, match="end its attention and MLP is not known"):
        add_adapters(model, BEHIND, dropout=False, seed=1)
    add_adapters(model, BEHIND.model_copy(update={"target_modules": ("o", "wo")}), dropout=False, seed=1)
    said: dict[str, Any] = {"input_ids": IDS, "decoder_input_ids": IDS[:, :5]}
    assert torch.equal(model(**said).logits, base(**said).logits)
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".bottleneck")[0].rpartition(".")[2] for name in learned} == {"o", "wo"}
    for parameter in learned.values():
        parameter += 0.1
    wanted = model(**said).logits
    assert not torch.allclose(wanted, base(**said).logits, atol=1e-3)
    export_adapter(model, {name: p.detach() for name, p in learned.items()}, folder, tmp_path / "kept", "SEQ_2_SEQ_LM")
    assert torch.equal(merge_adapter(base, str(tmp_path / "kept"))(**said).logits, wanted)


def test_what_cannot_be_is_named(model_folder: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which layers of GPT2LMHeadModel end its attention and MLP is not known"):
        adapted(model_folder("gpt2"), BEHIND)
    twice = BESIDE.model_copy(update={"target_modules": ("q_proj", "o_proj")})
    with pytest.raises(UserError, match="two of q_proj, o_proj are in one LlamaAttention"):
        adapted(model_folder("llama"), twice)
    inner = BESIDE.model_copy(update={"target_modules": ("gate_proj",)})
    with pytest.raises(UserError, match="gate_proj: names a layer that gives 32 numbers, not the 16 of the hidden"):
        adapted(model_folder("llama"), inner)
    module = adapted(model_folder("llama"), BEHIND)
    export_adapter(module.model, trained(module), "base", tmp_path, "CAUSAL_LM")
    file = tmp_path / "adapter_model.safetensors"
    whole = load_file(file)
    first = next(name for name, tensor in whole.items() if tensor.dim() == 2)
    narrow = whole | {first: whole[first][:, :1].contiguous()}
    for spoilt in (narrow, {name: tensor for name, tensor in whole.items() if name != first}):
        save_file(spoilt, file)
        base = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
        with pytest.raises(UserError, match="cannot be put into LlamaForCausalLM"):
            merge_adapter(base, str(tmp_path))


def test_the_start_is_the_same_whatever_was_drawn_before(model_folder: Callable[..., str]) -> None:
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        module = adapted(model_folder("llama"), BEHIND)
        found.append([p for p in module.parameters() if p.requires_grad])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    first, second = (module.model.model.layers[0].self_attn.o_proj, module.model.model.layers[0].mlp.down_proj)
    assert not torch.equal(first.bottleneck.adapter_down.weight, second.bottleneck.adapter_down.weight)
