"""IA3 merged into weights, whole or quantized, computes what it computed beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from distft.config.adapters.ia3 import Ia3
from distft.config.models import Model, Quantization
from distft.models.adapters.adapt import add_adapters
from distft.models.adapters.merging import plain_tensors
from distft.models.families.causal import load_causal

FACTORS = {
    "llama": Ia3(method="ia3"),
    "gpt2": Ia3(method="ia3", target_modules=("c_attn", "c_fc"), feedforward_modules=("c_fc",)),
}
IDS = torch.arange(3, 15).unsqueeze(0)


def computed(module: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module.eval()(input_ids=IDS, select=torch.arange(IDS.numel()))
    return found


@pytest.mark.parametrize("architecture", FACTORS)
@pytest.mark.parametrize("quantization", [None, Quantization(), Quantization(method="int8")])
def test_merged_it_computes_the_same(
    model_folder: Callable[..., str], architecture: str, quantization: Quantization | None
) -> None:
    folder = model_folder(architecture)
    module: Any = load_causal(folder, Model(path=folder, dtype="float32", quantization=quantization), dropout=False)
    add_adapters(module.model, FACTORS[architecture], dropout=False, seed=3)
    unlike = computed(module)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".ia3_l." in name:
                parameter.mul_(1 + 0.5 * torch.randn(parameter.shape, generator=generator))
    wanted = computed(module)
    tensors = dict(plain_tensors(((name, p.data) for name, p in module.named_parameters()), module))
    plain: Any = load_causal(folder, Model(path=folder, dtype="float32"), dropout=False)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(tensors[name])
    torch.testing.assert_close(computed(plain), wanted, rtol=1e-4, atol=1e-5)
    assert (unlike - wanted).abs().max() > 0.01
