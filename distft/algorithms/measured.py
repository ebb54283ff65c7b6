"""What is known of tokens only from all of their logits, without the logits of all of them: a chunk at a time, made
once more in the backward pass.

``logprobs`` and ``linear_logprobs`` have gradients written out for what every loss reads. This is for anything else
that is a function of each token's logits alone, such as how far they are from another model's: it is told the logits of
a chunk in float32, and torch differentiates it there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from distft.algorithms.linear_logprobs import LogitMap

# Logits of a chunk. A measure holds some six tensors of that size in float32 while it is differentiated.
CHUNK_ELEMENTS_CPU = 2**20
CHUNK_ELEMENTS_GPU = 2**24


class Measure(Protocol):
    """A function of single tokens' logits. ``names``: of what it answers."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def __call__(self, logits: Tensor, targets: Tensor, tokens: slice) -> dict[str, Tensor]:
        """Names to ``[n, ...]``, from ``logits [n, vocab]`` (float32, at the temperature) and ``targets [n]`` of the
        n tokens that lie at ``tokens`` among all that are read. What is to be trained is differentiable."""


def measured(
    states: Tensor,
    targets: Tensor,
    measure: Measure,
    *,
    head: Tensor | None = None,
    bias: Tensor | None = None,
    logit_map: LogitMap | None = None,
    temperature: float = 1.0,
    chunk_elements: int | None = None,
) -> dict[str, Tensor]:
    """What ``measure`` says of every token.

    Args:
        states: logits ``[num_tokens, vocab]``, any floating dtype; with ``head`` the hidden states
            ``[num_tokens, width]``, whose logits ``logit_map(states @ head.T + bias)`` never exist all at once.
        targets: int64 ``[num_tokens]``, num_tokens at least 1.
        measure: differentiable once.
        head: ``[vocab, width]``; its gradient is summed over chunks in float32.
        bias: ``[vocab]``.
        logit_map: what happens to the products; None: nothing.
        temperature: logits are divided by it.
        chunk_elements: logits in float32 at once; None chooses by device.

    Raises:
        ValueError: shapes that do not fit, or a temperature not above 0.
    """
    if states.ndim != 2 or targets.shape != states.shape[:1] or (head is not None and head.shape[1] != states.shape[1]):
        shapes = [tuple(tensor.shape) for tensor in (states, targets, head) if tensor is not None]
        raise ValueError(f"states, targets and head {shapes} do not fit together")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    if chunk_elements is None:
        chunk_elements = CHUNK_ELEMENTS_CPU if states.device.type == "cpu" else CHUNK_ELEMENTS_GPU
    vocab = len(head) if head is not None else states.shape[1]
    how = _How(measure, logit_map or LogitMap(), temperature, max(1, chunk_elements // max(1, vocab)))
    found: tuple[Tensor, ...] = _Measured.apply(states, head, bias, targets, how)  # type: ignore[no-untyped-call]
    return dict(zip(measure.names, found, strict=True))


@dataclass(frozen=True)
class _How:
    measure: Measure
    logit_map: LogitMap
    temperature: float
    rows: int

    def chunks(self, num_tokens: int) -> Iterator[slice]:
        return (slice(start, min(start + self.rows, num_tokens)) for start in range(0, num_tokens, self.rows))

    def logits(self, states: Tensor, head: Tensor | None, bias: Tensor | None) -> Tensor:
        """Of a chunk, in float32 (float64 for float64), before the temperature: the caller's to overwrite."""
        products = states if head is None else functional.linear(states, head, bias)
        return self.logit_map.into(products.to(torch.promote_types(products.dtype, torch.float32), copy=True))


class _Measured(torch.autograd.Function):
    """With y = W h + b, x = map(y) / T and m = measure(x): dy = map'(y) (dm/dx)^T dm / T, dh = W^T dy,
    dW = sum_t dy_t h_t^T, db = sum_t dy_t."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, head: Tensor | None, bias: Tensor | None, targets: Tensor, how: _How
    ) -> tuple[Tensor, ...]:
        parts = [
            how.measure(how.logits(states[tokens], head, bias).div_(how.temperature), targets[tokens], tokens)
            for tokens in how.chunks(len(targets))
        ]
        ctx.save_for_backward(states, head, bias, targets)
        ctx.how = how
        ctx.set_materialize_grads(False)
        found = tuple(torch.cat([part[name] for part in parts]) for name in how.measure.names)
        ctx.mark_non_differentiable(*(each for each in found if not each.is_floating_point()))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        states, head, bias, targets = ctx.saved_tensors
        how: _How = ctx.how
        asked = {
            name: gradient for name, gradient in zip(how.measure.names, gradients, strict=True) if gradient is not None
        }
        if not asked:
            return None, None, None, None, None
        grad_states = torch.empty_like(states)
        exact = torch.promote_types(states.dtype, torch.float32)
        of_head = ctx.needs_input_grad[1] and head is not None
        grad_head = torch.zeros_like(head, dtype=exact) if of_head else None
        grad_bias = torch.zeros_like(bias, dtype=exact) if bias is not None else None
        for tokens in how.chunks(len(targets)):
            logits = how.logits(states[tokens], head, bias)
            with torch.enable_grad():
                scaled = (logits / how.temperature).requires_grad_()
                found = how.measure(scaled, targets[tokens], tokens)
                trained = [name for name in asked if found[name].requires_grad]
                given = [asked[name][tokens] for name in trained]
                [gradient] = torch.autograd.grad([found[name] for name in trained], [scaled], given)
            # A masked token has a gradient of zero even if its logits are NaN.
            dead = torch.stack([each.reshape(len(each), -1).eq(0).all(1) for each in given]).all(0)
            gradient = gradient.masked_fill(dead[:, None], 0.0).div_(how.temperature)
            gradient = how.logit_map.back_into(gradient, logits)
            rounded = gradient.to(states.dtype)
            if head is None:
                grad_states[tokens] = rounded
                continue
            grad_states[tokens] = rounded @ head
            if grad_head is not None:
                grad_head += rounded.T @ states[tokens]
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
        return (
            grad_states if ctx.needs_input_grad[0] else None,
            None if grad_head is None else grad_head.to(head.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )
