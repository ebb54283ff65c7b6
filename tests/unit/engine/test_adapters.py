"""Adapters in the engine, over a plain and a four-bit base, against PEFT's own model and plain AdamW."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from distft.config.adapters.lora import Lora
from distft.config.fewer_bits import QuantizationMethod
from distft.config.models import Quantization
from distft.models.adapters.adapt import is_adapter
from distft.models.quantization import as_bitsandbytes
from tests.unit.engine import rank_side
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import RATE, VOCABULARY, Setup
from tests.unit.engine.test_engine import DECAY, STEPS, slow, spread, steps_for

LORA = Lora(r=4, alpha=8.0)
FASTER_B = Lora(r=4, alpha=4.0, rslora=True, loraplus_ratio=4.0)
DORA = Lora(r=4, alpha=8.0, dora=True)
PISSA = Lora(r=4, alpha=8.0, init="pissa")
OLORA = Lora(r=4, alpha=2.0, rslora=True, init="olora")
Bits: TypeAlias = QuantizationMethod | None
BITS: tuple[Bits, ...] = (None, "nf4", "fp4", "int8")
ON = [(0, 1), (0, 2), (1, 2), (2, 2), (3, 1), (3, 2)]  # stage and number of ranks


def of_transformers(quantized: Bits) -> dict[str, Any]:
    """What its ``from_pretrained`` is told."""
    if quantized is None:
        return {}
    return {"quantization_config": as_bitsandbytes(Quantization(method=quantized), torch.float32)}


def of_peft(
    folder: str, started: dict[str, np.ndarray], lora: Lora, *, quantized: Bits = None
) -> tuple[list[float], dict[str, np.ndarray]]:
    """The same steps by PEFT in one process, whole batches at once, from the same adapters. Where they begin as a part
    of the weights it takes that out of them, which is put back in what is returned."""
    torch.set_num_threads(1)
    options = of_transformers(quantized)
    base = AutoModelForCausalLM.from_pretrained(folder, attention_dropout=0.0, dtype=torch.float32, **options)
    if quantized == "int8" and lora.dora:  # whose layer in PEFT asks bitsandbytes for scales that it has given away
        base = base.dequantize(torch.float32)
    kind: dict[str, Any] = {"lora_alpha": lora.alpha, "use_rslora": lora.rslora, "use_dora": lora.dora}
    untouched = {
        f"model.{name.removesuffix('.weight')}.base_layer.weight": parameter.detach().clone().numpy()
        for name, parameter in base.named_parameters()
        if "_proj" in name
    }
    begins: Any = True if lora.init == "kaiming" else lora.init
    config = LoraConfig(r=lora.r, target_modules="all-linear", init_lora_weights=begins, **kind)
    module: Any = get_peft_model(base, config).train()
    names = {name: "model." + name.removeprefix("base_model.model.") for name, _ in module.named_parameters()}
    trained = {names[name]: p for name, p in module.named_parameters() if p.requires_grad}
    with torch.no_grad():
        if lora.init != "kaiming":
            for name, first in ((name, first) for name, first in trained.items() if ".lora_A." in name):
                other = name.replace(".lora_A.", ".lora_B.")
                product = torch.from_numpy(started[other] @ started[name])  # which no sign of singular vectors changes
                torch.testing.assert_close(trained[other] @ first, product, rtol=1e-4, atol=1e-6)
        for name, parameter in trained.items():
            parameter.copy_(torch.from_numpy(started[name]))
    plain: dict[str, Any] = {"lr": RATE, "foreach": False, "fused": False}
    if lora.loraplus_ratio != 1:
        plus = {"loraplus_lr_ratio": lora.loraplus_ratio, "loraplus_weight_decay": DECAY}
        optimizer = create_loraplus_optimizer(module, torch.optim.AdamW, **plus, **plain)
    else:
        matrices, lengths = ([p for p in trained.values() if p.dim() == dim] for dim in (2, 1))
        groups = [{"params": matrices, "weight_decay": DECAY}, {"params": lengths, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, **plain)
    norms = []
    for step in STEPS:
        ids = torch.cat([rank_side.sequence(sample) for rank in step for micro in rank for sample in micro])
        logits = module(input_ids=ids).logits[:, :-1]
        F.cross_entropy(logits.reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1)).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)))
        optimizer.step()
        optimizer.zero_grad()
    after = {names[name]: parameter.detach().float().numpy() for name, parameter in module.named_parameters()}
    if quantized == "int8" and lora.dora:
        after |= {name: value for name, value in started.items() if not is_adapter(name)}
    return norms, after if lora.init == "kaiming" else after | untouched


@pytest.mark.parametrize(("stage", "world_size", "lora", "quantized"), [
    *(on for bits in (None, "nf4") for on in ((0, 1, LORA, bits), (3, 2, LORA, bits))),
    (0, 1, LORA, "fp4"), (3, 2, LORA, "int8"),
    (2, 2, FASTER_B, None), (3, 2, DORA, None), (3, 2, PISSA, None),
    *(slow(*on, LORA, bits) for on in ON if on not in ((0, 1), (3, 2)) for bits in BITS),
    slow(0, 1, LORA, "int8"), slow(3, 2, LORA, "fp4"),
    *(slow(*on, FASTER_B, None) for on in ON if on != (2, 2)),
    *(slow(*on, DORA, None) for on in ON if on != (3, 2)),
    *(slow(*on, DORA, bits) for on in ((0, 1), (2, 2)) for bits in ("nf4", "int8")),
    *(slow(*on, PISSA, None) for on in ON if on != (3, 2)), *(slow(*on, OLORA, None) for on in ON),
])  # fmt: skip
def test_adapters_train_as_in_peft(
    groups: dict[int, Group], folder: str, stage: int, world_size: int, lora: Lora, quantized: Bits
) -> None:
    group, setup = groups[world_size], Setup(folder, stage, adapter=lora, quantized=quantized)
    started = group.call(rank_side.train, setup, [])[0]["weights"]
    assert all(value.any() != (lora.init == "kaiming") for name, value in started.items() if ".lora_B." in name)
    norms, wanted = of_peft(folder, started, lora, quantized=quantized)
    for answer in group.call(rank_side.train, setup, steps_for(world_size)):
        assert answer["norms"] == pytest.approx(norms, rel=1e-5)
        mean, most = spread(answer["weights"], wanted)
        assert mean < 1e-6
        assert most < 0.01 * RATE * lora.loraplus_ratio
        moved = {name for name, value in answer["weights"].items() if (value != started[name]).any()}
        assert moved == {name for name in started if is_adapter(name)}


@pytest.mark.parametrize(("stage", "world_size"), ON)
def test_only_adapters_have_gradients_and_states(
    groups: dict[int, Group], folder: str, stage: int, world_size: int
) -> None:
    setup = Setup(folder, stage, adapter=LORA)
    weights = groups[1].call(rank_side.train, setup, [])[0]["weights"]
    numel = sum(value.size for value in weights.values())
    trained = sum(value.size for name, value in weights.items() if is_adapter(name))
    for found in groups[world_size].call(rank_side.held_between, setup):
        assert found["backward"].parameters == (numel // world_size if stage == 3 else numel)
        assert found["backward"].gradients == (trained // world_size if stage >= 2 else trained)
        assert found["stepped"].optimizer == 2 * (trained // world_size if stage >= 1 else trained)


@pytest.mark.parametrize(("stage", "dtype", "lora", "quantized"), [
    (0, "float32", LORA, None), (2, "bfloat16", LORA, "nf4"), (3, "float32", LORA, "nf4"),
    (3, "bfloat16", FASTER_B, None),
    slow(0, "bfloat16", LORA, "nf4"), slow(3, "bfloat16", LORA, "int8"), slow(0, "bfloat16", LORA, "int8"),
    slow(1, "float32", LORA, None), slow(3, "bfloat16", LORA, None),
    slow(0, "float32", FASTER_B, None), slow(2, "bfloat16", FASTER_B, None),
    slow(0, "bfloat16", DORA, None), slow(2, "float32", DORA, None), slow(3, "bfloat16", DORA, None),
    (3, "bfloat16", PISSA, None), slow(0, "float32", PISSA, None), slow(2, "bfloat16", OLORA, None),
])  # fmt: skip
def test_a_checkpoint_holds_adapters_only_and_goes_on_from_them(
    groups: dict[int, Group], folder: str, tmp_path: Path, stage: int, dtype: str, lora: Lora, quantized: Bits
) -> None:
    setup = Setup(folder, stage, dtype, adapter=lora, quantized=quantized)
    steps = steps_for(2)
    for answer in groups[2].call(rank_side.save_and_go_on, setup, str(tmp_path), steps[:2], steps[2:]):
        undisturbed, repeated = answer["weights"]
        assert spread(repeated, undisturbed) == (0.0, 0.0)
        assert answer["norms"][0] == answer["norms"][1]
    kept = {key.rpartition("/")[2] for path in tmp_path.glob("*.safetensors") for key in load_file(path)}
    wanted = {name for name in undisturbed if is_adapter(name)}
    if lora.init != "kaiming":  # and what they began as
        layers = {name.partition(".lora_")[0] for name in wanted}
        wanted |= {f"{layer}.lora_start.{part}" for layer in layers for part in "AB"}
    assert kept == wanted


@pytest.mark.parametrize(
    ("stage", "quantized"), [(2, None), (3, "nf4"), (3, "int8"), slow(2, "nf4"), slow(2, "int8"), slow(3, None)]
)
def test_a_sleep_leaves_nothing_and_changes_nothing(
    groups: dict[int, Group], folder: str, stage: int, quantized: Bits
) -> None:
    setup = Setup(folder, stage, "bfloat16", adapter=LORA, quantized=quantized)
    slept = groups[2].call(rank_side.sleep_and_wake, setup, STEPS)[0]
    awake = groups[2].call(rank_side.train, setup, STEPS)[0]["weights"]
    assert spread(slept["weights"], awake) == (0.0, 0.0)
    held, asleep, again = slept["bytes"]
    assert asleep == 0
    assert again == held


@pytest.mark.parametrize(("stage", "offload", "quantized"), [
    (2, {"offload_optimizer": "cpu"}, "nf4"),
    (3, {"offload_optimizer": "cpu", "offload_parameters": "cpu"}, None),
    slow(2, {"offload_optimizer": "cpu"}, None),
    slow(3, {"offload_optimizer": "cpu", "offload_parameters": "cpu"}, "nf4"),
    slow(3, {"offload_optimizer": "cpu", "offload_parameters": "cpu"}, "int8"),
])  # fmt: skip
def test_offload_changes_no_number(
    groups: dict[int, Group], folder: str, stage: int, offload: dict[str, str], quantized: Bits
) -> None:
    usual = Setup(folder, stage, adapter=LORA, quantized=quantized)
    offloaded = Setup(folder, stage, adapter=LORA, quantized=quantized, engine=offload)
    first, second = (groups[2].call(rank_side.train, one, STEPS)[0] for one in (usual, offloaded))
    assert first["norms"] == pytest.approx(second["norms"], rel=1e-6)
    assert spread(first["weights"], second["weights"])[0] < 1e-7


def test_recomputed_activations_give_the_same_gradients(groups: dict[int, Group], folder: str) -> None:
    for quantized in (None, "nf4", "int8"):
        kept = Setup(folder, 3, adapter=LORA, quantized=quantized)
        again = Setup(folder, 3, adapter=LORA, quantized=quantized, checkpointing=True)
        first, second = (groups[2].call(rank_side.train, one, steps_for(2))[0] for one in (kept, again))
        assert second["norms"] == pytest.approx(first["norms"], rel=1e-5)
        assert spread(second["weights"], first["weights"])[1] < 0.01 * RATE
