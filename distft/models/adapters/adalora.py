"""AdaLoRA by PEFT: beside ``q_proj.base_layer.weight`` lie ``q_proj.lora_A.default [r, in]``, ``lora_E [r, 1]`` and
``lora_B [out, r]``. Which of E become zero, ``engine.rank_search`` finds out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from torch import Tensor, nn

from distft.config.adapters.adalora import AdaLora
from distft.models.adapters.kind import Kind
from distft.models.adapters.layers import ADAPTER, inject, stored_transposed, without_adapter_name

PARTS: Final = ("lora_A", "lora_E", "lora_B")
_TRAINED: Final = tuple(f".{part}.{ADAPTER}" for part in PARTS)
# What the search has seen of each part, and which numbers of E it has kept: buffers of the layer.
SEEN: Final = ("importance", "uncertainty")
KEPT: Final = "rank_kept"
SUFFIXES: Final = (*_TRAINED, *(f".{part}_{seen}" for part in PARTS for seen in SEEN), f".{KEPT}")
MARK: Final = "lora_E"
_EPS: Final = 1e-5  # that PEFT adds to the rank before it divides by it


def add(model: Any, adalora: AdaLora, *, dropout: bool, seed: int, fresh: bool) -> None:  # noqa: ARG001 - none
    """Gives linear layers adapters, A and B drawn and E zero. Raises as ``inject``."""
    from peft import AdaLoraConfig

    def settings(targets: list[str]) -> AdaLoraConfig:
        return AdaLoraConfig(
            init_r=adalora.r,
            target_r=adalora.target_r,
            lora_alpha=adalora.alpha,  # type: ignore[arg-type]
            total_step=1,  # it is not PEFT that searches
            target_modules=targets,
            fan_in_fan_out=stored_transposed(model, targets),
        )

    inject(model, adalora.layers(model.config.model_type), settings, seed)
    for part in model.modules():
        if hasattr(part, MARK):
            part.ranknum.requires_grad_(requires_grad=False)  # which PEFT forgets on the meta device


def _read_from_outside(layer: Any) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """They lie in ``ParameterDict``s, which have no forward pass of their own."""
    for part in (*PARTS, "ranknum"):
        for parameter in getattr(layer, part).parameters():
            yield layer, parameter


def _merged(layer: Any, own: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``W + scale * B E A``; a bias stays what it is."""
    first, middle, second = (learned[suffix].float() for suffix in _TRAINED)
    scale = layer.scaling[ADAPTER] / (learned[f".ranknum.{ADAPTER}"].float() + _EPS)
    update = scale * (second @ (first * middle))
    return {**own, "weight": own["weight"].float() + (update.T if layer.fan_in_fan_out else update)}


KIND: Final = Kind(MARK, SUFFIXES, without_adapter_name, _read_from_outside, _merged)
