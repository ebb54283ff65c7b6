"""Log-probabilities and their kin straight from hidden states: the logits of all tokens never exist at once.

``linear_logprobs(hidden, weight, targets)`` is ``token_logprobs(head(hidden), targets)``: a chunk of logits is made,
read and forgotten, and made once more in the backward pass (2 x 2 x vocab x width FLOPs a token for memory that does
not grow with the tokens). The forward pass takes some tokens over the whole vocabulary at a time, whose softmax is
then at hand. The backward pass takes some of the vocabulary for all tokens, because with each token's log-sum-exp
kept nothing needs to be summed over the vocabulary any more: so each row of the head's gradient is one matrix
product over all tokens, as in the plain path, and what is added up over chunks is the smaller gradient of the hidden
states, in float32. On a GPU the softmax of a chunk is one kernel (``softmax_kernels``).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from distft.algorithms.logprobs import OUTPUTS, token_logprobs

# Logits of a chunk: on a CPU the matrix product wants some hundred tokens, on a GPU enough rows to keep it busy
# (128 MiB in bfloat16; on an H100 four times as much was not faster).
_CHUNK_ELEMENTS_CPU = 2**22
_CHUNK_ELEMENTS_GPU = 2**26
_TILE = 256


@dataclass(frozen=True)
class LogitMap:
    """What a model does to its head's products: ``x = cap tanh(scale y / cap)``, without cap ``x = scale y``.

    Gemma 2 and 3 cap (Gemma Team 2024, section 2), Granite and Cohere scale.
    """

    scale: float = 1.0
    cap: float | None = None

    def of(self, products: Tensor) -> Tensor:
        """The logits, in float32 where they are not the products themselves."""
        if self == LogitMap():
            return products
        logits = products.to(_exact(products)) * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def into(self, products: Tensor) -> Tensor:
        """The logits, in place."""
        if self.scale != 1.0:
            products.mul_(self.scale)
        if self.cap is not None:
            products.div_(self.cap).tanh_().mul_(self.cap)
        return products

    def back_into(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """The gradient of the products from that of the logits, in place; ``logits`` are overwritten."""
        if self.cap is not None:
            gradient.mul_(logits.div_(self.cap).square_().neg_().add_(1.0))
        return gradient if self.scale == 1.0 else gradient.mul_(self.scale)


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    logit_map: LogitMap | None = None,
    outputs: Collection[str] = ("logprobs",),
    temperature: float = 1.0,
    chunk_elements: int | None = None,
) -> dict[str, Tensor]:
    """``token_logprobs`` of the logits ``logit_map(hidden @ weight.T + bias)``.

    Products are computed in the model's dtype, all else in float32 (float64 for float64).

    Args:
        hidden: ``[num_tokens, width]``, floating: the states *predicting* each target.
        weight: ``[vocab, width]`` of the same dtype; its gradient is computed where it is asked for.
        targets: int64 ``[num_tokens]``.
        bias: ``[vocab]``.
        logit_map: what happens to the products; None: nothing.
        outputs: which of ``logprobs``, ``entropy``, ``logits_mean`` to return.
        temperature: sampling temperature, above 0.
        chunk_elements: logits that exist at once; None chooses by device.

    Returns:
        Name to ``[num_tokens]``; ``logits_mean`` without gradient.

    Raises:
        ValueError: shapes that do not fit, an unknown output, or a temperature not above 0.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} do not fit together")
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"hidden {tuple(hidden.shape)} and targets {tuple(targets.shape)} do not fit together")
    how = _How(logit_map or LogitMap(), tuple(outputs), temperature, chunk_elements or chunk_of(hidden.device))
    results: tuple[Tensor, ...] = _LinearLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, how
    )
    return {name: result for name, result in zip(OUTPUTS, results, strict=True) if name in outputs}


def chunk_of(device: torch.device) -> int:
    """How many logits exist at once on such a device."""
    return _CHUNK_ELEMENTS_CPU if device.type == "cpu" else _CHUNK_ELEMENTS_GPU


@dataclass(frozen=True)
class _How:
    logit_map: LogitMap
    outputs: tuple[str, ...]
    temperature: float
    chunk_elements: int


class _LinearLogprobs(torch.autograd.Function):
    """With y = W h + b, x = map(y) / T, p = softmax(x), L = logprobs and H = entropy:

    dL/dx_v = [v is the target] - p_v,  dH/dx_v = -p_v (log p_v + H),  dy = map'(y) dx / T,
    dh = W^T dy,  dW = sum_t dy_t h_t^T,  db = sum_t dy_t.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, how: _How
    ) -> tuple[Tensor | None, ...]:
        asked = {*how.outputs, "logprobs"}
        read = {name: hidden.new_empty(targets.shape, dtype=_exact(hidden)) for name in asked}
        log_sum = torch.empty_like(read["logprobs"])
        for tokens in _pieces(len(targets), how.chunk_elements // max(1, len(weight))):
            products = functional.linear(hidden[tokens], weight, bias)
            if _has_kernels(products):
                for name, values in _kernels().read_rows(
                    products, targets[tokens], scale=how.logit_map.scale, cap=how.logit_map.cap,
                    temperature=how.temperature, entropy="entropy" in asked, mean="logits_mean" in asked,
                ).items():  # fmt: skip
                    (log_sum if name == "log_sum" else read[name])[tokens] = values
                continue
            logits = how.logit_map.of(products)
            found = token_logprobs(logits, targets[tokens], outputs=asked, temperature=how.temperature)
            for name, values in found.items():
                read[name][tokens] = values
            chosen = logits.gather(1, targets[tokens, None]).squeeze(1).to(log_sum.dtype)
            log_sum[tokens] = chosen / how.temperature - found["logprobs"]
        ctx.save_for_backward(hidden, weight, bias, targets, log_sum, read.get("entropy"))
        ctx.how = how
        ctx.set_materialize_grads(False)
        if "logits_mean" in read:
            ctx.mark_non_differentiable(read["logits_mean"])
        return tuple(read.get(name) for name in OUTPUTS)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None, _: None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        hidden, weight, bias, targets, log_sum, entropy = ctx.saved_tensors
        if grad_logprobs is None and grad_entropy is None:
            return None, None, None, None, None
        wants_hidden, wants_weight, wants_bias, *_rest = ctx.needs_input_grad
        grad_hidden = hidden.new_zeros(hidden.shape, dtype=log_sum.dtype) if wants_hidden else None
        grad_weight = torch.empty_like(weight) if wants_weight else None
        grad_bias = torch.empty_like(bias) if wants_bias else None
        softmax = _SoftmaxGradient(ctx.how, targets, log_sum, entropy, grad_logprobs, grad_entropy)
        for part in _pieces(len(weight), ctx.how.chunk_elements // max(1, len(targets))):
            rows = weight[part]
            gradient = softmax.of_products(functional.linear(hidden, rows, None if bias is None else bias[part]), part)
            if grad_bias is not None:
                grad_bias[part] = gradient.sum(0, dtype=log_sum.dtype)
            rounded = gradient.to(hidden.dtype)
            del gradient
            if grad_weight is not None:
                torch.mm(rounded.T, hidden, out=grad_weight[part])
            if grad_hidden is not None:
                grad_hidden += rounded @ rows
            del rounded  # before the next part has its own
        return None if grad_hidden is None else grad_hidden.to(hidden.dtype), grad_weight, grad_bias, None, None


class _SoftmaxGradient:
    """The gradient of the head's products, a part of the vocabulary at a time."""

    def __init__(
        self,
        how: _How,
        targets: Tensor,
        log_sum: Tensor,
        entropy: Tensor | None,
        grad_logprobs: Tensor | None,
        grad_entropy: Tensor | None,
    ) -> None:
        self._how, self._targets, self._log_sum = how, targets, log_sum[:, None]
        self._entropy = None if entropy is None else entropy[:, None]
        # The gradient of logits is that of logits / T, divided by T.
        by_logprobs = torch.zeros_like(log_sum) if grad_logprobs is None else grad_logprobs / how.temperature
        by_entropy = None if grad_entropy is None else grad_entropy / how.temperature
        dead = by_logprobs == 0 if by_entropy is None else (by_logprobs == 0) & (by_entropy == 0)
        # A masked token has a gradient of zero even if its logits are NaN. Asking a GPU whether there is one would
        # wait for it.
        self._dead = dead[:, None] if dead.is_cuda or bool(dead.any()) else None
        self._by_logprobs = by_logprobs[:, None]
        self._by_entropy = None if by_entropy is None else by_entropy[:, None]

    def of_products(self, products: Tensor, part: slice) -> Tensor:
        """Gradient ``[num_tokens, part]``, in float32 or the products' dtype; ``products``, of the same shape, may be
        overwritten.
        """
        how = self._how
        if _has_kernels(products):
            _kernels().replace_by_gradient(
                products, self._targets, self._log_sum, self._by_logprobs.contiguous(), entropy=self._entropy,
                by_entropy=self._by_entropy, offset=part.start, scale=how.logit_map.scale, cap=how.logit_map.cap,
                temperature=how.temperature,
            )  # fmt: skip
            return products
        log_p = how.logit_map.into(products.to(self._log_sum.dtype))
        logits = log_p.clone() if how.logit_map.cap is not None else log_p
        if how.temperature != 1.0:
            log_p.div_(how.temperature)
        log_p.sub_(self._log_sum)
        if self._by_entropy is None or self._entropy is None:
            gradient = log_p.exp_().mul_(-self._by_logprobs)
        else:
            p = log_p.exp()
            # Finite, so that p log p is 0 where p is 0.
            weights = log_p.clamp_(min=torch.finfo(log_p.dtype).min).add_(self._entropy)
            gradient = weights.mul_(self._by_entropy).add_(self._by_logprobs).mul_(p).neg_()
        places = self._targets - part.start
        inside = (places >= 0) & (places < gradient.shape[1])
        chosen = torch.where(inside[:, None], self._by_logprobs, 0.0)
        gradient.scatter_add_(1, places.clamp(0, gradient.shape[1] - 1)[:, None], chosen)
        if self._dead is not None:
            gradient.masked_fill_(self._dead, 0.0)
        return how.logit_map.back_into(gradient, logits)


def _has_kernels(products: Tensor) -> bool:
    """Whether Triton's kernels read these products: float64 is torch's."""
    return products.is_cuda and products.dtype != torch.float64 and _kernels() is not None


@cache
def _kernels() -> Any:
    """The Triton kernels; None where Triton is not installed."""
    found = importlib.util.find_spec("triton") is not None
    return importlib.import_module("distft.algorithms.softmax_kernels") if found else None


def _pieces(length: int, size: int) -> Iterator[slice]:
    """Slices of about ``size``. Matrix products of a GPU want whole tiles: rows of 4,097 elements take twice as long as
    rows of 4,096.
    """
    size = max(1, size - size % _TILE if size > _TILE else size)
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _exact(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
