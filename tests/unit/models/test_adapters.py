"""Adapters by themselves: which layers, what start, and what they are once merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from distft.common.errors import UserError
from distft.config.adapters.adalora import AdaLora
from distft.config.adapters.lora import Lora
from distft.config.adapters.selective import BitFit, Selective
from distft.config.models import Model, Quantization
from distft.models.adapters.adapt import add_adapters, is_adapter, without_adapters
from distft.models.adapters.layers import ADAPTER
from distft.models.adapters.lora_starts import parts_of
from distft.models.adapters.merging import plain_tensors
from distft.models.export import export_adapter, export_model
from distft.models.families.causal import empty_causal, load_causal
from distft.models.families.scalar import empty_scalar, load_scalar
from tests.unit.models import tiny
from tests.unit.models.families import write_family

IDS = torch.arange(3, 15).unsqueeze(0)
PISSA = Lora(r=4, alpha=8.0, init="pissa")
OLORA = Lora(r=4, alpha=2.0, rslora=True, init="olora")


def adapted(
    folder: str, kind: str, lora: Lora | AdaLora, dtype: str = "float32", *, bits: Quantization | None = None
) -> nn.Module:
    """A model with adapters that do something: B is not zero, rows are not as long as they were."""
    model = Model(path=folder, dtype=dtype, quantization=bits)
    if kind == "causal":
        module: Any = load_causal(folder, model, dropout=False)
    else:
        module = load_scalar(folder, model, dropout=False, new_head=True)[0]
    add_adapters(module.model, lora, dropout=False, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_B." in name or ".lora_E." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            if ".lora_magnitude_vector." in name:
                parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def computed(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module(input_ids=IDS, select=torch.arange(IDS.numel()))
    return found


@pytest.mark.parametrize("kind", ["causal", "scalar"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("lora", [
    Lora(r=4, alpha=8.0), Lora(r=4, alpha=8.0, dora=True), PISSA, OLORA, AdaLora(method="adalora", r=4),
], ids=["lora", "dora", "pissa", "olora", "adalora"])  # fmt: skip
def test_merged_it_computes_the_same(
    model_folder: Callable[..., str], tmp_path: Path, architecture: str, kind: str, lora: Lora | AdaLora
) -> None:
    folder = model_folder(architecture)
    module = adapted(folder, kind, lora)
    trained = {name.removeprefix("model."): p.detach() for name, p in module.named_parameters() if p.requires_grad}
    weights = {
        name.removeprefix("model."): tensor.clone()
        for name, tensor in plain_tensors(((n, p.data) for n, p in module.named_parameters()), module)
    }
    build, opener, task = {
        "causal": (empty_causal, AutoModelForCausalLM, "CAUSAL_LM"),
        "scalar": (empty_scalar, AutoModelForSequenceClassification, "SEQ_CLS"),
    }[kind]
    export_model(build(folder, Model(path=folder, dtype="float32")), weights, tiny.tokenizer(), tmp_path)
    export_adapter(module.model, trained, folder, tmp_path / "adapter", task)  # type: ignore[arg-type]
    wanted = computed(module)
    plain = Model(path=str(tmp_path), dtype="float32")
    if kind == "causal":
        merged: Any = load_causal(str(tmp_path), plain, dropout=False)
    else:
        merged, fresh = load_scalar(str(tmp_path), plain, dropout=False, new_head=False)
        assert not fresh
    torch.testing.assert_close(computed(merged.eval()), wanted, rtol=1e-4, atol=1e-5)
    options = {} if kind == "causal" else {"num_labels": 1}
    base = opener.from_pretrained(folder, dtype=torch.float32, **options)
    by_peft: Any = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    body: Any = module.model
    with torch.no_grad():
        torch.testing.assert_close(by_peft(input_ids=IDS).logits, body(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize(("every", "dora"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_quantized_weights_merge_into_what_was_computed(
    model_folder: Callable[..., str], architecture: str, every: bool, dora: bool, method: Any
) -> None:
    """Also of layers that have no adapter."""
    folder = model_folder(architecture)
    some = ("down_proj",) if architecture == "llama" else ("c_fc",)
    lora = Lora(r=4, target_modules="all-linear" if every else some, dora=dora)
    module = adapted(folder, "causal", lora, bits=Quantization(method=method))
    wanted = computed(module)
    tensors = dict(plain_tensors(((name, p.data) for name, p in module.named_parameters()), module))
    plain: Any = load_causal(folder, Model(path=folder, dtype="float32"), dropout=False).eval()
    unlike = computed(plain)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            assert parameter.shape == tensors[name].shape, name
            parameter.copy_(tensors[name])
    torch.testing.assert_close(computed(plain), wanted, rtol=1e-4, atol=1e-5)
    assert (unlike - wanted).abs().max() > 0.005


@pytest.mark.parametrize("rslora", [False, True])
def test_the_scale_is_pefts(model_folder: Callable[..., str], rslora: bool) -> None:
    lora = Lora(r=4, alpha=6.0, rslora=rslora, target_modules=("q_proj", "up_proj"))
    module = adapted(model_folder("llama"), "causal", lora)
    base = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=6, use_rslora=rslora, target_modules=["q_proj", "up_proj"])
    peft: Any = get_peft_model(base, config).eval()
    ours = dict(module.named_parameters())
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            parameter.copy_(ours["model." + name.removeprefix("base_model.model.")])
    wanted = peft(input_ids=IDS).logits[0]
    torch.testing.assert_close(computed(module), wanted)
    layer: Any = module.get_submodule("model.model.layers.0.self_attn.q_proj")
    assert layer.scaling[ADAPTER] == lora.scale


@pytest.mark.parametrize("lora", [PISSA, OLORA], ids=["pissa", "olora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_part_of_the_weight_changes_nothing_until_it_is_trained(
    model_folder: Callable[..., str], lora: Lora, dtype: Any
) -> None:
    """To the bit: the step-0 invariants hold, and the base may be the reference at any step."""
    folder = model_folder("gpt2")
    plain: Any = load_causal(folder, Model(path=folder, dtype=dtype), dropout=False).eval()
    module: Any = load_causal(folder, Model(path=folder, dtype=dtype), dropout=False).eval()
    add_adapters(module.model, lora, dropout=False, seed=3)
    assert torch.equal(computed(module), computed(plain))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_A." in name:
                parameter.mul_(1.5)
    assert not torch.equal(computed(module), computed(plain))
    with without_adapters(module):
        assert torch.equal(computed(module), computed(plain))


@pytest.mark.parametrize(("lora", "left"), [
    # [[3, 0], [0, 2]] less its largest part; [[3, 4], [4, 0]] = [[.6, .8], [.8, -.6]] [[5, 2.4], [0, 3.2]]
    (Lora(r=1, alpha=4.0, init="pissa"), ([[3.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 2.0]])),
    (Lora(r=1, alpha=4.0, init="pissa", svd_rounds=16), ([[3.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 2.0]])),
    (Lora(r=1, alpha=1.0, init="olora"), ([[3.0, 4.0], [4.0, 0.0]], [[0.0, 2.56], [0.0, -1.92]])),
], ids=["pissa", "randomized", "olora"])  # fmt: skip
def test_the_part_of_the_weight_is_the_papers(lora: Lora, left: tuple[list[list[float]], list[list[float]]]) -> None:
    weight, wanted = map(torch.tensor, left)
    first, second = parts_of(weight, lora, lora.scale, seed=1)
    torch.testing.assert_close(weight - lora.scale * second @ first, wanted, rtol=1e-5, atol=1e-5)


def test_a_weight_without_so_many_parts_is_named(model_folder: Callable[..., str]) -> None:
    for init in ("pissa", "olora"):
        with pytest.raises(UserError, match=f"{init} finds no 400 parts in a matrix of 8 rows or columns"):
            adapted(model_folder("llama"), "causal", Lora(r=400, init=init))


def test_every_linear_layer_but_the_head_has_one(model_folder: Callable[..., str]) -> None:
    for architecture, count in (("llama", 7), ("gpt2", 4), ("gemma2", 7)):
        for kind in ("causal", "scalar"):
            module = adapted(model_folder(architecture, tied=False), kind, Lora(r=2))
            adapters = [name for name, _ in module.named_parameters() if is_adapter(name)]
            assert len(adapters) == 2 * 2 * count  # two layers, A and B
            trained = {name for name, p in module.named_parameters() if p.requires_grad}
            assert trained == set(adapters) | ({"model.score.weight"} if kind == "scalar" else set())


def test_the_start_is_the_same_whatever_was_drawn_before(model_folder: Callable[..., str]) -> None:
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        module = adapted(model_folder("llama"), "causal", Lora(r=2))
        found.append({name: p.detach() for name, p in module.named_parameters() if ".lora_A." in name})
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(noise)))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_unknown_target_modules_are_named(model_folder: Callable[..., str]) -> None:
    lora = Lora(target_modules=("q_proj", "v_porj"))
    with pytest.raises(UserError, match=r"LlamaForCausalLM has no linear layer v_porj[\s\S]*did you mean v_proj\?"):
        adapted(model_folder("llama"), "causal", lora)


def test_a_model_without_biases_is_told_what_needs_none(model_folder: Callable[..., str]) -> None:
    module = load_causal(model_folder("llama"), Model(path="llama", dtype="float32"), dropout=False)
    with pytest.raises(UserError, match=r"no weight that is called \*\.bias") as caught:
        add_adapters(module.model, BitFit(method="bitfit"), dropout=False, seed=1)
    hint = caught.value.hint
    way_out = Model.model_validate({"path": "llama", **yaml.safe_load(hint.partition(" trains")[0])}).peft
    assert way_out is not None
    add_adapters(module.model, way_out, dropout=False, seed=1)
    assert any(is_adapter(name) for name, one in module.named_parameters() if one.requires_grad)
    with pytest.raises(UserError, match="no weight that is called nothing") as caught:
        add_adapters(module.model, Selective(method="selective", train=("nothing",)), dropout=False, seed=1)
    assert "biases" not in caught.value.hint


def test_of_a_deepseek_only_what_is_no_experts_name_is_adapted(tmp_path: Path) -> None:
    """PEFT would take the dense layers' names for those of the stacked experts."""
    folder = write_family(tmp_path, "deepseek_v3")

    def adapted(targets: Any) -> set[str]:
        module = load_causal(folder, Model(path=folder, dtype="float32"), dropout=False)
        add_adapters(module.model, Lora(r=2, target_modules=targets), dropout=False, seed=1)
        return {name.split(".lora_")[0].rpartition(".")[2] for name, _ in module.named_parameters() if is_adapter(name)}

    assert adapted("all-linear") == {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}
    for named in (("q_a_proj", "gate_proj", "up_proj", "down_proj"), ("down_proj",), ("gate_proj",)):
        with pytest.raises(UserError, match="PEFT"):
            adapted(named)


def test_what_peft_refuses_is_the_users_message(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "mamba")
    module = load_causal(folder, Model(path=folder, dtype="float32"), dropout=False)
    with pytest.raises(UserError, match="PEFT puts no such adapter into MambaForCausalLM: .*out_proj") as caught:
        add_adapters(module.model, Lora(), dropout=False, seed=1)
    assert caught.value.where == "target_modules of the adapters"


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda tensor: tensor.new_empty(0), r"is not whole: .*lora_A.* has the shape \[0\]"),
    (lambda tensor: tensor.fill_(float("nan")), "is spoilt: .*lora_A.* holds NaN or infinity"),
], ids=["empty", "NaN"])  # fmt: skip
def test_an_adapter_is_read_again(
    model_folder: Callable[..., str], tmp_path: Path, spoil: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    module: Any = adapted(model_folder("llama"), "causal", Lora(r=2))
    trained = {name.removeprefix("model."): p.detach() for name, p in module.named_parameters() if p.requires_grad}
    name = next(name for name in trained if ".lora_A." in name)
    with pytest.raises(ValueError, match=said):
        export_adapter(module.model, trained | {name: spoil(trained[name])}, "base", tmp_path, "CAUSAL_LM")
