"""Linear layers whose frozen weights are whole numbers of 8 bits, a scale for each row.

``W[o, i] = q[o, i] * s[o] / 127``, ``s`` the largest magnitude of the row (LLM.int8, Dettmers et al. 2022, section
2.1), as bitsandbytes quantizes. It multiplies in 8 bits too, but for columns in which it finds outliers among all rows
of a micro-batch, so that what a sequence computes would depend on its neighbours; on a CPU it does so in evaluation
only, so that a policy's log-probabilities would not be those that it is trained with. And it keeps the whole matrix
beside the parameter, of which ZeRO-3 leaves a rank a part. Here a matrix is unpacked and multiplied in the model's
dtype, always, as bitsandbytes does on a CPU in training.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from bitsandbytes.nn.modules import Linear8bitLt
from torch import Tensor


class EightBitLinear(Linear8bitLt):
    """``x W^T + b``, W unpacked for as long as it takes, in the forward and once more in the backward pass."""

    compute_dtype: torch.dtype

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., in]`` to ``[..., out]``, in ``x``'s dtype."""
        weight: Any = self.weight
        product: Tensor = _Product.apply(x, weight, weight.SCB, self.bias)  # type: ignore[no-untyped-call]
        return product


def multiply_whole(layer: Linear8bitLt, dtype: torch.dtype) -> None:
    """Makes a layer, as transformers has loaded it, one of this kind."""
    weight: Any = layer.weight
    weight.CB = None  # the matrix once more, which no shard would replace
    layer.__class__ = EightBitLinear
    layer.compute_dtype = dtype  # type: ignore[assignment]


def unpacked(weight: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """``weight [out, in]`` in int8 and ``scales [out]`` in float32 to the matrix in ``dtype``."""
    return weight.to(dtype).mul_(scales.unsqueeze(1) * (1 / 127))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scales)
        return F.linear(x, unpacked(weight, scales, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, scales = ctx.saved_tensors
        return gradient @ unpacked(weight, scales, gradient.dtype), None, None, None
