"""LoRA that begins as a part of the weight (PiSSA, OLoRA): ``W + scale * (B A - B0 A0)`` is what computes.

The papers take ``scale * B0 A0`` out of W and train what was taken. Here W stays whole and what was taken is kept
beside it: the same function with the same gradients, whose base still is the model that it was, to refer to and to
export.
Buffers, so that a checkpoint has them and a resumed run need not find the same singular vectors again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from distft.common.errors import UserError
from distft.config.adapters.lora import Lora
from distft.models.adapters.layers import ADAPTER, drawing

_NAME: Final = "lora_start"
SUFFIXES: Final = (f".{_NAME}.A", f".{_NAME}.B")
_A, _B = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight"


class LoraStart(nn.Module):
    """What A ``[r, in]`` and B ``[out, r]`` began as."""

    A: Tensor
    B: Tensor

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.register_buffer("A", first)
        self.register_buffer("B", second)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``, by the products that the adapter itself makes."""
        return functional.linear(functional.linear(inputs, self.A), self.B)

    def product(self) -> Tensor:
        """``B0 A0 [out, in]`` in float32."""
        return self.B.float() @ self.A.float()


class _SinceTheStart:
    """PEFT's way into the forward pass of a LoRA layer (its ``LoraVariant``)."""

    @staticmethod
    def supports_lora_conversion() -> bool:
        """What is written by ``over_whole_weights`` is one."""
        return True

    @staticmethod
    def forward(layer: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """Exactly ``result`` before the first step: the difference is formed before anything is added."""
        moved: Tensor = layer.lora_B[active_adapter](layer.lora_A[active_adapter](x)) - layer.lora_start(x)
        scale: float = layer.scaling[active_adapter]
        return result + scale * moved


def begin_as_part(model: Any, lora: Lora, seed: int, *, fresh: bool) -> None:
    """The model's adapters begin as a part of their layers' weights, in its dtype; collective where those are sharded.
    Raises UserError where a layer has no ``r`` such parts.
    """
    from peft.utils.integrations import gather_params_ctx

    dtype = model.dtype
    layers = list(_layers(model))
    least = min((min(layer.in_features, layer.out_features) for _, layer in layers), default=lora.r)
    if wrong := lora.why_not(least, least, least):
        key, what, hint = wrong
        raise UserError(what, where=f"peft.{key}", hint=hint)
    for _, layer in layers:
        first, second = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        if fresh and not first.is_meta:
            with torch.no_grad(), gather_params_ctx(layer.base_layer.weight, modifier_rank=None):
                weight = layer.base_layer.weight.detach()
                turned = weight.T if layer.fan_in_fan_out else weight
                found = parts_of(turned, lora, layer.scaling[ADAPTER], seed)
            for parameter, part in zip((first, second), found, strict=True):
                parameter.data = _of_the_first_rank(part.to(device=weight.device, dtype=dtype).contiguous())
        setattr(layer, _NAME, LoraStart(*(part.detach().to(dtype, copy=True) for part in (first, second))))
        layer.lora_variant[ADAPTER] = _SinceTheStart


def start_of(layer: Any) -> LoraStart | None:
    """What the adapter of a layer began as; None where that is no part of the weight."""
    found: LoraStart | None = getattr(layer, _NAME, None)
    return found


def over_whole_weights(model: Any, config: Any, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``trained`` as plain LoRA over whole weights: ``[A; A0]`` and ``[B, -B0]``, of twice the rank. ``config``,
    PEFT's, is told of it. What did not begin as a part of the weights is left alone.
    """
    found = dict(trained)
    layers = [(name, start) for name, layer in _layers(model) if (start := start_of(layer)) is not None]
    for name, start in layers:
        first, second = trained[f"{name}{_A}"], trained[f"{name}{_B}"]
        found[f"{name}{_A}"] = torch.cat([first, start.A.to(first)], dim=0)
        found[f"{name}{_B}"] = torch.cat([second, -start.B.to(second)], dim=1)
    if layers:
        config.r = 2 * config.r
        config.lora_alpha = config.lora_alpha * (2**0.5 if config.use_rslora else 2)  # so that the scale stays
    return found


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, part) for name, part in model.named_modules() if hasattr(part, "lora_A"))


def parts_of(weight: Tensor, lora: Lora, scale: float, seed: int) -> tuple[Tensor, Tensor]:
    """A ``[r, in]`` and B ``[out, r]`` of ``weight [out, in]``, in float32.

    PiSSA (Meng et al. 2024, equations 2 and 3): of ``U S V'`` the r largest, ``S^1/2 V'`` and ``U S^1/2``, over the
    scale. OLoRA (Büyükakyüz 2024, algorithm 1): of ``Q R`` the first r rows of R and columns of Q.
    """
    whole = weight.to(device="cuda" if torch.cuda.is_available() else weight.device, dtype=torch.float32)
    if lora.init == "olora":
        left, right = torch.linalg.qr(whole)
        return right[: lora.r], left[:, : lora.r]
    if lora.svd_rounds:
        with drawing(seed):
            left, values, right = torch.svd_lowrank(whole, lora.r, niter=lora.svd_rounds)
    else:
        left, values, right_transposed = torch.linalg.svd(whole, full_matrices=False)
        left, values, right = left[:, : lora.r], values[: lora.r], right_transposed[: lora.r].T
    roots = (values / scale).sqrt()
    return (right * roots).T, left * roots


def _of_the_first_rank(part: Tensor) -> Tensor:
    """The same on all ranks, whose devices may round otherwise."""
    if dist.is_initialized():
        dist.broadcast(part, 0)
    return part
