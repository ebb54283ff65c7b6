"""Low-rank adapters by PEFT: beside ``q_proj.base_layer.weight`` lie ``q_proj.lora_A.default.weight [r, in]`` and
``lora_B [out, r]``, and with lengths of rows (DoRA) ``lora_magnitude_vector [out]``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from torch import Tensor, nn

from distft.config.adapters.lora import Lora
from distft.models.adapters import lora_starts
from distft.models.adapters.kind import Kind
from distft.models.adapters.layers import ADAPTER, WRAPPED, inject, stored_transposed

_A, _B = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight"
_LENGTHS = f".lora_magnitude_vector.{ADAPTER}.weight"
SUFFIXES: Final = (_A, _B, _LENGTHS, *lora_starts.SUFFIXES)
MARK: Final = "lora_A"


def add(model: Any, lora: Lora, *, dropout: bool, seed: int, fresh: bool) -> None:
    """Gives linear layers adapters, A drawn (Kaiming uniform) and B zero, or both a part of the layer's weight. Raises
    as ``inject``, and as ``begin_as_part``."""
    from peft import LoraConfig

    def settings(targets: list[str]) -> LoraConfig:
        return LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            use_rslora=lora.rslora,
            use_dora=lora.dora,
            lora_dropout=lora.dropout if dropout else 0.0,
            target_modules=targets,
            fan_in_fan_out=stored_transposed(model, targets),
        )

    inject(model, lora.layers(model.config.model_type), settings, seed)
    if lora.init != "kaiming":
        lora_starts.begin_as_part(model, lora, seed, fresh=fresh)


def _read_from_outside(layer: Any) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """What computes lengths reads the layer's own weight and bias, and A's shape."""
    for lengths in layer.lora_magnitude_vector.values():
        for parameter in (*layer.base_layer.parameters(), layer.lora_A[ADAPTER].weight):
            yield lengths, parameter


def _saved_name(name: str) -> str:
    """Without the adapter's name, and of lengths without ``weight``."""
    part = name.removesuffix(f".{ADAPTER}.weight")
    return f"{WRAPPED}.{part}" if name.endswith(_LENGTHS) else f"{WRAPPED}.{part}.weight"


def _merged(layer: Any, own: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``W + scale * B A``, less what ``B A`` began as where that was a part of W, its rows as long as was learned where
    lengths were; a bias stays what it is."""
    product = learned[_B].float() @ learned[_A].float()
    if (start := lora_starts.start_of(layer)) is not None:
        product -= start.product()
    update = layer.scaling[ADAPTER] * product
    turned = layer.fan_in_fan_out
    weight = (own["weight"].T if turned else own["weight"]).float() + update
    if _LENGTHS in learned:
        weight *= (learned[_LENGTHS].float() / weight.norm(dim=1)).unsqueeze(1)
    return {**own, "weight": weight.T if turned else weight}


KIND: Final = Kind(MARK, SUFFIXES, _saved_name, _read_from_outside, _merged)
