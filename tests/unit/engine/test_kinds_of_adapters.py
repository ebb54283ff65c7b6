"""Adapters other than LoRA in the engine, against PEFT's own model, or a plain one of which some weights are frozen."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import IA3Config, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from distft.config.adapters.adapter import Adapter
from distft.config.adapters.bottleneck import Bottleneck, Network, Parallel
from distft.config.adapters.ia3 import Ia3
from distft.config.adapters.p_tuning import PTuning
from distft.config.adapters.prefix import PrefixTuning
from distft.config.adapters.prompt import PromptTuning
from distft.config.adapters.selective import Selective
from distft.config.adapters.virtual_tokens import VirtualTokens
from tests.unit.engine import rank_side
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import RATE, VOCABULARY, Setup
from tests.unit.engine.test_adapters import Bits, of_transformers
from tests.unit.engine.test_engine import DECAY, STEPS, slow, spread, steps_for

IA3 = Ia3(method="ia3")
SELECTIVE = Selective(method="selective", train=("*layernorm*", "*.1.mlp.*"))
IA3_OF_PEFT = IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])


PROMPT = PromptTuning(method="prompt", num_virtual_tokens=5)
PROMPT_OF_PEFT = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
P_TUNING = PTuning(method="p_tuning", num_virtual_tokens=5, encoder_hidden_size=12)
PREFIX = PrefixTuning(method="prefix", num_virtual_tokens=5)
PROJECTED = PrefixTuning(method="prefix", num_virtual_tokens=5, projection=True, encoder_hidden_size=12)
OF_PEFT: dict[Adapter, Any] = {
    IA3: IA3_OF_PEFT,
    PROMPT: PROMPT_OF_PEFT,
    P_TUNING: PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=12),
    PREFIX: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    PROJECTED: PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=12
    ),
}
BOTTLENECK = Bottleneck(method="bottleneck", bottleneck_size=6)
PARALLEL = Parallel(method="parallel", bottleneck_size=6, activation="gelu", scale=2.0)
KINDS = (IA3, PROMPT, SELECTIVE, P_TUNING, PREFIX, PROJECTED, BOTTLENECK, PARALLEL)


class Around(nn.Module):
    """A layer or a block, and a small network: plain torch, written as the papers have it."""

    def __init__(self, inner: nn.Module, of_output: bool) -> None:
        super().__init__()
        self.inner, self.of_output = inner, of_output
        self.adapter_down, self.adapter_up = nn.Linear(16, 6), nn.Linear(6, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.inner(x)
        if self.of_output:  # h + up(relu(down(h))), Houlsby et al. 2019
            return out + self.adapter_up(torch.relu(self.adapter_down(out)))  # type: ignore[no-any-return]
        return out + 2.0 * self.adapter_up(F.gelu(self.adapter_down(x)))  # type: ignore[no-any-return]  # He et al. 2022


def surrounded(base: Any, adapter: Adapter) -> tuple[Any, dict[str, str]]:
    """A model with small networks in plain torch, and what ours calls its parameters."""
    base.requires_grad_(False)
    places = ("self_attn.o_proj", "mlp.down_proj") if adapter is BOTTLENECK else ("mlp",)
    for layer in base.model.layers:
        for place in places:
            owner, _, leaf = place.rpartition(".")
            around = Around(layer.get_submodule(place), adapter is BOTTLENECK)
            setattr(layer.get_submodule(owner), leaf, around)
    names = {}
    for name, _ in base.named_parameters():
        ours = name.replace(".inner.", ".").replace(".adapter_", ".bottleneck.adapter_")
        names[name] = f"model.{ours}"
    return base.train(), names


def plainly(
    folder: str, adapter: Adapter, started: dict[str, np.ndarray], *, quantized: Bits = None
) -> tuple[list[float], dict[str, np.ndarray], set[str]]:
    """Norms and weights after the same steps in one process, whole batches at once, and what of them was trained."""
    torch.set_num_threads(1)
    module: Any
    options = of_transformers(quantized)
    base: Any = AutoModelForCausalLM.from_pretrained(folder, attention_dropout=0.0, dtype=torch.float32, **options)
    if isinstance(adapter, Network):
        module, names = surrounded(base, adapter)
    elif adapter is not SELECTIVE:
        module = get_peft_model(base, deepcopy(OF_PEFT[adapter])).train()
    else:
        module = base.train()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_("layernorm" in name or "layers.1.mlp." in name)
    before = "base_model." if isinstance(adapter, VirtualTokens) else "base_model.model."
    if not isinstance(adapter, Network):
        names = {name: "model." + name.removeprefix(before) for name, _ in module.named_parameters()}
    if isinstance(adapter, VirtualTokens):
        for name in (name for name in names if name.startswith("prompt_encoder.")):
            *_, number, part = name.split(".")
            encoder = f"encoder.{number}.{part}" if number.isdigit() else "prompt_embeddings"
            names[name] = f"model.virtual_tokens.{encoder}"
    trained = {names[name]: p for name, p in module.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(torch.from_numpy(started[name]))
    groups = [{"params": [p for p in trained.values() if p.dim() > 1], "weight_decay": DECAY},
              {"params": [p for p in trained.values() if p.dim() == 1], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=RATE, foreach=False, fused=False)
    norms = []
    for step in STEPS:
        ids = torch.cat([rank_side.sequence(sample) for rank in step for micro in rank for sample in micro])
        logits = module(input_ids=ids).logits[:, -ids.shape[1] : -1]
        F.cross_entropy(logits.reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1)).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)))
        optimizer.step()
        optimizer.zero_grad()
    weights = {names[name]: parameter.detach().float().numpy() for name, parameter in module.named_parameters()}
    return norms, weights, set(trained)


@pytest.mark.parametrize(("adapter", "stage", "world_size", "quantized"), [
    *((kind, 3, 2, None) for kind in (IA3, PROMPT, SELECTIVE, PROJECTED, BOTTLENECK)),
    (IA3, 0, 1, "nf4"),
    *(slow(kind, 3, 2, None) for kind in (P_TUNING, PREFIX, PARALLEL)),
    *(slow(kind, *on, None) for kind in KINDS for on in ((0, 1), (0, 2), (1, 2), (2, 2), (3, 1))),
    *(slow(kind, *on, "nf4") for kind in (IA3, PROMPT, P_TUNING, PREFIX, PARALLEL) for on in ((2, 2), (3, 2))),
    *(slow(kind, *on, "int8") for kind in (IA3, PROMPT, PARALLEL) for on in ((2, 2), (3, 2))),
])  # fmt: skip
def test_they_train_as_elsewhere(
    groups: dict[int, Group], folder: str, adapter: Adapter, stage: int, world_size: int, quantized: Bits
) -> None:
    setup = Setup(folder, stage, adapter=adapter, quantized=quantized)
    started = groups[world_size].call(rank_side.train, setup, [])[0]["weights"]
    norms, wanted, trained = plainly(folder, adapter, started, quantized=quantized)
    for answer in groups[world_size].call(rank_side.train, setup, steps_for(world_size)):
        assert answer["norms"] == pytest.approx(norms, rel=1e-5)
        mean, most = spread(answer["weights"], wanted)
        assert mean < 1e-6
        assert most < 0.01 * RATE
        assert {name for name, value in answer["weights"].items() if (value != started[name]).any()} == trained


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [kind for kind in KINDS if not isinstance(kind, PrefixTuning)])
def test_recomputed_activations_give_the_same_gradients(
    groups: dict[int, Group], folder: str, adapter: Adapter
) -> None:
    kept, again = (Setup(folder, 3, adapter=adapter, checkpointing=recomputed) for recomputed in (False, True))
    first, second = (groups[2].call(rank_side.train, one, steps_for(2))[0] for one in (kept, again))
    assert second["norms"] == pytest.approx(first["norms"], rel=1e-5)
    assert spread(second["weights"], first["weights"])[1] < 0.01 * RATE


@pytest.mark.parametrize(("adapter", "stage", "dtype"), [
    (IA3, 3, "bfloat16"), (PROMPT, 3, "bfloat16"),
    slow(IA3, 0, "float32"), slow(IA3, 2, "bfloat16"),
    slow(PROMPT, 0, "float32"), slow(PROMPT, 2, "bfloat16"),
    *(slow(kind, *on) for kind in (P_TUNING, PREFIX, PROJECTED, BOTTLENECK, PARALLEL)
      for on in ((0, "float32"), (2, "bfloat16"), (3, "bfloat16"))),
    slow(SELECTIVE, 0, "bfloat16"), slow(SELECTIVE, 2, "float32"), slow(SELECTIVE, 3, "bfloat16"),
])  # fmt: skip
def test_a_checkpoint_holds_what_is_trained_and_goes_on_from_it(
    groups: dict[int, Group], folder: str, tmp_path: Path, adapter: Adapter, stage: int, dtype: str
) -> None:
    setup, steps = Setup(folder, stage, dtype, adapter=adapter), steps_for(2)
    for answer in groups[2].call(rank_side.save_and_go_on, setup, str(tmp_path), steps[:2], steps[2:]):
        undisturbed, repeated = answer["weights"]
        assert spread(repeated, undisturbed) == (0.0, 0.0)
        assert answer["norms"][0] == answer["norms"][1]
    kept = {key.split("/", 2)[2] for path in tmp_path.glob("*.safetensors") for key in load_file(path)}
    assert kept == plainly(folder, adapter, undisturbed)[2]
