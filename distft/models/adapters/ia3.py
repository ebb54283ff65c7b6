"""(IA)^3 by PEFT: beside ``k_proj.base_layer.weight`` lies ``k_proj.ia3_l.default``, ``[out, 1]``, or ``[1, in]`` where
it is the layer's input that is multiplied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from torch import Tensor, nn

from distft.common.errors import UserError
from distft.config.adapters.ia3 import Ia3
from distft.models.adapters.kind import Kind
from distft.models.adapters.layers import ADAPTER, WHERE, inject, stored_transposed, without_adapter_name

_FACTORS = f".ia3_l.{ADAPTER}"
SUFFIXES: Final = (_FACTORS,)
MARK: Final = "ia3_l"


def add(model: Any, ia3: Ia3, *, dropout: bool, seed: int, fresh: bool) -> None:  # noqa: ARG001 - ones at once
    """Gives linear layers factors, all ones. Raises as ``inject``, and UserError where no layers are known or named."""
    from peft import IA3Config

    try:
        layers = ia3.layers(model.config.model_type)
    except LookupError:
        what = f"which layers of {type(model).__name__} hold keys, values and the last of the MLP is not known"
        raise UserError(what, where=WHERE, hint="name them, and in feedforward_modules the MLP's") from None

    def settings(targets: list[str]) -> IA3Config:
        return IA3Config(
            target_modules=targets,
            feedforward_modules=[name for name in targets if name.rpartition(".")[2] in layers.inputs],
            fan_in_fan_out=stored_transposed(model, targets),
        )

    inject(model, layers, settings, seed)


def _read_from_outside(layer: Any) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """Factors lie in a ``ParameterDict``, which has no forward pass of its own."""
    for factors in layer.ia3_l.parameters():
        yield layer, factors


def _merged(layer: Any, own: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows of the weight and a bias times the factors of the output, or columns times those of the input."""
    factors = learned[_FACTORS].float()
    turned = getattr(layer, "fan_in_fan_out", False)  # PEFT's layer over fewer bits does not say, and has none turned
    weight = own["weight"].float() * (factors.T if turned else factors)
    found = {**own, "weight": weight}
    if "bias" in own and not layer.is_feedforward:
        found["bias"] = own["bias"].float() * factors.flatten()
    return found


KIND: Final = Kind(MARK, SUFFIXES, without_adapter_name, _read_from_outside, _merged)
