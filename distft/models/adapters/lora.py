"""Low-rank adapters by PEFT: beside ``q_proj.base_layer.weight`` lie ``q_proj.lora_A.default.weight [r, in]`` and
``lora_B [out, r]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from distft.config.adapters.lora import Lora
from distft.models.adapters.layers import ADAPTER, inject, stored_transposed

_A, _B = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight"
SUFFIXES: Final = (_A, _B)
MARK: Final = "lora_A"


def add(model: Any, lora: Lora, *, dropout: bool, seed: int) -> None:
    """Gives linear layers adapters, A drawn (Kaiming uniform) and B zero. Raises as ``inject``."""
    from peft import LoraConfig

    def settings(targets: list[str]) -> LoraConfig:
        return LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            use_rslora=lora.rslora,
            lora_dropout=lora.dropout if dropout else 0.0,
            target_modules=targets,
            fan_in_fan_out=stored_transposed(model, targets),
        )

    inject(model, lora.layers(model.config.model_type), settings, seed)


def merged(layer: Any, own: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``W + scale * B A``; a bias stays what it is."""
    update = layer.scaling[ADAPTER] * learned[_B].float() @ learned[_A].float()
    weight = own["weight"].float() + (update.T if layer.fan_in_fan_out else update)
    return {**own, "weight": weight}
