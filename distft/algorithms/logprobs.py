"""Log-probabilities, entropy and mean logit of tokens, without a float32 ``[num_tokens, vocab]`` tensor.

A vocabulary of 128k makes logits the largest tensor of a training step. Here float32 exists for
one chunk of tokens at a time, in the forward and in the backward; what is kept for the backward
is the logits as the model made them. A chunk that fits the processor's cache is also what makes
this faster than ``cross_entropy`` over everything at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distft.algorithms.masking import at_least_float32

OUTPUTS = ("logprobs", "entropy", "logits_mean")

# Elements of a chunk: 2 MB of float32 stays in a CPU's cache; a GPU wants few launches (128 MB).
_CHUNK_ELEMENTS_CPU = 2**19
_CHUNK_ELEMENTS_GPU = 2**25


def token_logprobs(
    logits: Tensor,
    targets: Tensor,
    *,
    outputs: Collection[str] = ("logprobs",),
    temperature: float = 1.0,
    chunk_size: int | None = None,
) -> dict[str, Tensor]:
    """What a loss wants to know of each token.

    ``logprobs_t = log softmax(logits_t / temperature)[target_t]``;
    ``entropy_t = -sum_v p_v log p_v`` of the same distribution; both differentiable once.
    ``logits_mean_t`` is the mean over the vocabulary of the logits as given, without gradient.

    Args:
        logits: ``[num_tokens, vocab]``, any floating dtype: the logits *predicting* each target.
            -inf entries are allowed (probability 0).
        targets: int64 ``[num_tokens]``.
        outputs: which of ``logprobs``, ``entropy``, ``logits_mean`` to return.
        temperature: sampling temperature, above 0.
        chunk_size: tokens in float32 at once; None chooses by device and vocabulary.

    Returns:
        Name to ``[num_tokens]``, float32 (float64 for float64 logits).

    Raises:
        ValueError: shapes that do not fit, an unknown output, or a temperature not above 0.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} do not fit together")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    if unknown := set(outputs) - set(OUTPUTS):
        raise ValueError(f"unknown outputs {sorted(unknown)}; there are {OUTPUTS}")
    if chunk_size is None:
        elements = _CHUNK_ELEMENTS_CPU if logits.device.type == "cpu" else _CHUNK_ELEMENTS_GPU
        chunk_size = max(1, elements // max(1, logits.shape[1]))
    results: tuple[Tensor, ...] = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        logits, targets, temperature, chunk_size, "entropy" in outputs, "logits_mean" in outputs
    )
    return {name: result for name, result in zip(OUTPUTS, results, strict=True) if name in outputs}


def _chunks(num_tokens: int, chunk_size: int) -> Iterator[slice]:
    return (slice(start, start + chunk_size) for start in range(0, num_tokens, chunk_size))


def _scaled(chunk: Tensor, temperature: float) -> Tensor:
    return chunk if temperature == 1.0 else chunk / temperature


class _TokenLogprobs(torch.autograd.Function):
    """With x = logits / T and p = softmax(x), L = logprobs and H = entropy:

    dL/dx_v = [v is the target] - p_v    and    dH/dx_v = -p_v (log p_v + H).
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        temperature: float,
        chunk_size: int,
        with_entropy: bool,
        with_mean: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        logprobs = torch.empty(targets.shape, dtype=dtype, device=logits.device)
        entropy = torch.empty_like(logprobs) if with_entropy else None
        logits_mean = torch.empty_like(logprobs) if with_mean else None
        for rows in _chunks(len(targets), chunk_size):
            chunk = at_least_float32(logits[rows])
            if logits_mean is not None:
                logits_mean[rows] = chunk.mean(-1)
            log_p = torch.log_softmax(_scaled(chunk, temperature), -1)
            logprobs[rows] = log_p.gather(1, targets[rows, None]).squeeze(1)
            if entropy is not None:
                # Finite, so that p log p is 0 where p is 0.
                log_p.clamp_(min=torch.finfo(dtype).min)
                entropy[rows] = -(log_p.exp() * log_p).sum(-1)
        ctx.save_for_backward(logits, targets, entropy)
        ctx.temperature, ctx.chunk_size = temperature, chunk_size
        ctx.set_materialize_grads(False)
        if logits_mean is not None:
            ctx.mark_non_differentiable(logits_mean)
        return logprobs, entropy, logits_mean

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None, _: None
    ) -> tuple[Tensor | None, None, None, None, None, None]:
        logits, targets, entropy = ctx.saved_tensors
        if grad_logprobs is None and grad_entropy is None:
            return None, None, None, None, None, None
        grad_logits = torch.empty_like(logits)
        for rows in _chunks(len(targets), ctx.chunk_size):
            gradient = _chunk_gradient(
                _scaled(at_least_float32(logits[rows]), ctx.temperature),
                targets[rows, None],
                None if grad_logprobs is None else grad_logprobs[rows, None] / ctx.temperature,
                None if grad_entropy is None else grad_entropy[rows, None] / ctx.temperature,
                None if grad_entropy is None else entropy[rows, None],
            )
            grad_logits[rows] = gradient
        return grad_logits, None, None, None, None, None


def _chunk_gradient(
    scaled: Tensor, targets: Tensor, grad_logprobs: Tensor | None, grad_entropy: Tensor | None, entropy: Tensor | None
) -> Tensor:
    """Gradient to the logits of a chunk, ``[rows, vocab]``; the other arguments are ``[rows, 1]``."""
    scale = torch.zeros_like(scaled[:, :1]) if grad_logprobs is None else grad_logprobs
    if grad_entropy is None or entropy is None:
        dead = scale == 0
        gradient = torch.softmax(scaled, -1).mul_(-scale)
    else:
        dead = (scale == 0) & (grad_entropy == 0)
        log_p = torch.log_softmax(scaled, -1).clamp_(min=torch.finfo(scaled.dtype).min)
        gradient = log_p.exp().mul_(log_p.add_(entropy).mul_(grad_entropy).add_(scale).neg_())
    gradient.scatter_add_(1, targets, scale)
    # A masked token has a gradient of zero even if its logits are NaN. (Asking a GPU whether
    # there is one would wait for it.)
    return gradient.masked_fill_(dead, 0.0) if dead.is_cuda or bool(dead.any()) else gradient
