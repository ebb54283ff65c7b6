"""The softmax part of the fused head as Triton kernels: each logit is read once in a pass, in the model's dtype.

The same formulas as ``linear_logprobs`` has in torch, which needs some ten passes over float32 copies for them. Only
imported where tensors lie on a GPU (torch brings Triton there), or under Triton's interpreter in the tests.
"""

# A kernel's arguments are Triton's to type.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Logits that a program reads at once; a row of more takes several rounds.
_BLOCK = 4096


@triton.jit  # type: ignore[untyped-decorator]
def _mapped(y, scale, cap, capped: tl.constexpr):
    """``cap tanh(scale y / cap)``, or ``scale y``."""
    x = y * scale
    if capped:
        # tanh(u) = 1 - 2 / (exp(2u) + 1)
        x = cap * (1.0 - 2.0 / (tl.exp(2.0 * x / cap) + 1.0))
    return x


@triton.jit  # type: ignore[untyped-decorator]
def _read_rows(
    products, targets, log_sums, logprobs, entropies, means,
    stride, scale, cap, by_temperature, vocabulary: tl.constexpr,
    capped: tl.constexpr, with_entropy: tl.constexpr, with_mean: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """A row a program: log-sum-exp in one pass (a running maximum; Milakov and Gimelshein 2018)."""
    row = tl.program_id(0).to(tl.int64)
    first = products + row * stride
    highest = -float("inf")
    total, weighted, added = 0.0, 0.0, 0.0
    for start in range(0, vocabulary, block):
        columns = start + tl.arange(0, block)
        inside = columns < vocabulary
        y = tl.load(first + columns, mask=inside, other=0.0).to(tl.float32)
        logits = _mapped(y, scale, cap, capped)
        if with_mean:
            added += tl.sum(tl.where(inside, logits, 0.0), 0)
        x = tl.where(inside, logits * by_temperature, -float("inf"))
        higher = tl.maximum(highest, tl.max(x, 0))
        # A row that begins with -inf alone has no maximum yet.
        base = tl.where(higher == -float("inf"), 0.0, higher)
        shrunk = tl.exp(highest - base)
        p = tl.exp(x - base)
        total = total * shrunk + tl.sum(p, 0)
        if with_entropy:
            weighted = weighted * shrunk + tl.sum(tl.where(p > 0.0, p * x, 0.0), 0)
        highest = higher
    log_sum = highest + tl.log(total)
    chosen = tl.load(first + tl.load(targets + row)).to(tl.float32)
    tl.store(log_sums + row, log_sum)
    tl.store(logprobs + row, _mapped(chosen, scale, cap, capped) * by_temperature - log_sum)
    if with_entropy:
        tl.store(entropies + row, log_sum - weighted / total)
    if with_mean:
        tl.store(means + row, added / vocabulary)


@triton.jit  # type: ignore[untyped-decorator]
def _replace_by_gradient(
    products, targets, log_sums, entropies, by_logprobs, by_entropy,
    columns_here, offset, stride, scale, cap, by_temperature,
    capped: tl.constexpr, with_entropy: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """A block of a row a program; the gradient takes the products' place."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < columns_here
    places = products + row * stride + columns
    logits = _mapped(tl.load(places, mask=inside, other=0.0).to(tl.float32), scale, cap, capped)
    weight = tl.load(by_logprobs + row)
    log_p = logits * by_temperature - tl.load(log_sums + row)
    p = tl.exp(log_p)
    gradient = -p * weight
    dead = weight == 0.0
    if with_entropy:
        weight_entropy = tl.load(by_entropy + row)
        gradient -= tl.where(p > 0.0, p * (log_p + tl.load(entropies + row)), 0.0) * weight_entropy
        dead = dead & (weight_entropy == 0.0)
    gradient += tl.where(columns + offset == tl.load(targets + row), weight, 0.0)
    gradient *= scale
    if capped:
        gradient *= 1.0 - (logits / cap) * (logits / cap)
    # A masked token has a gradient of zero even if its logits are NaN.
    gradient = tl.where(dead, 0.0, gradient)
    tl.store(places, gradient.to(products.dtype.element_ty), mask=inside)


def read_rows(
    products: Tensor, targets: Tensor, *, scale: float, cap: float | None, temperature: float, entropy: bool, mean: bool
) -> dict[str, Tensor]:
    """``log_sum``, ``logprobs`` and, if asked, ``entropy`` and ``logits_mean``, all ``[num_tokens]`` float32, of
    products ``[num_tokens, vocab]`` in any floating dtype up to float32.
    """
    found = {
        name: torch.empty(len(products), dtype=torch.float32, device=products.device)
        for name, asked in (("log_sum", True), ("logprobs", True), ("entropy", entropy), ("logits_mean", mean))
        if asked
    }
    unused = found["log_sum"]
    _read_rows[(len(products),)](
        products, targets, found["log_sum"], found["logprobs"], found.get("entropy", unused),
        found.get("logits_mean", unused), products.stride(0), scale, cap or 1.0, 1.0 / temperature,
        vocabulary=products.shape[1], capped=cap is not None, with_entropy=entropy, with_mean=mean,
        block=_block(products.shape[1]), num_warps=8,
    )  # fmt: skip
    return found


def replace_by_gradient(
    products: Tensor, targets: Tensor, log_sum: Tensor, by_logprobs: Tensor, *, entropy: Tensor | None,
    by_entropy: Tensor | None, offset: int, scale: float, cap: float | None, temperature: float,
) -> None:  # fmt: skip
    """The gradient of the loss to the products, in their place. They are columns ``offset ...`` of the vocabulary;
    ``by_logprobs``, ``by_entropy`` float32 ``[num_tokens]``: the loss's gradients to the two results, divided by the
    temperature.
    """
    rows, columns = products.shape
    with_entropy = entropy is not None and by_entropy is not None
    block = _block(columns)
    _replace_by_gradient[(rows, triton.cdiv(columns, block))](
        products, targets, log_sum, entropy if with_entropy else log_sum, by_logprobs,
        by_entropy if with_entropy else log_sum, columns, offset, products.stride(0), scale, cap or 1.0,
        1.0 / temperature, capped=cap is not None, with_entropy=with_entropy, block=block, num_warps=8,
    )  # fmt: skip


def _block(columns: int) -> int:
    return min(_BLOCK, int(triton.next_power_of_2(columns)))
