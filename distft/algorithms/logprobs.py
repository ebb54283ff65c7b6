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

OUTPUTS = ("logprobs", "entropy", "logits_mean")

# Elements of a chunk: 1 MB of float32 stays in a CPU's cache; a GPU wants few launches (128 MB).
_CHUNK_ELEMENTS_CPU = 2**18
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


class _Chunks:
    """Rows of logits in float32, a chunk at a time, in two buffers used again and again.

    Nothing else of that size is allocated, so the loop's memory is two chunks from start to end.
    """

    def __init__(self, logits: Tensor, chunk_size: int) -> None:
        self._logits, self._chunk_size = logits, chunk_size
        size = (min(chunk_size, len(logits)), logits.shape[1])
        self.dtype = torch.promote_types(logits.dtype, torch.float32)
        self._first = torch.empty(size, dtype=self.dtype, device=logits.device)
        self._second = torch.empty_like(self._first)

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, their logits, and room of the same shape; both tensors may be overwritten."""
        for start in range(0, len(self._logits), self._chunk_size):
            rows = slice(start, start + self._chunk_size)
            source = self._logits[rows]
            yield rows, self._first[: len(source)].copy_(source), self._second[: len(source)]


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
        chunks = _Chunks(logits, chunk_size)
        logprobs = torch.empty(targets.shape, dtype=chunks.dtype, device=logits.device)
        entropy = torch.empty_like(logprobs) if with_entropy else None
        logits_mean = torch.empty_like(logprobs) if with_mean else None
        for rows, chunk, room in chunks:
            if logits_mean is not None:
                logits_mean[rows] = chunk.mean(-1)
            log_p = torch.log_softmax(_scale(chunk, temperature), -1, out=room)
            logprobs[rows] = log_p.gather(1, targets[rows, None]).squeeze(1)
            if entropy is not None:
                # Finite, so that p log p is 0 where p is 0.
                log_p.clamp_(min=torch.finfo(chunks.dtype).min)
                entropy[rows] = -torch.exp(log_p, out=chunk).mul_(log_p).sum(-1)
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
        # The gradient to the logits is that to logits / T, divided by T.
        zeros = torch.zeros_like(targets, dtype=torch.promote_types(logits.dtype, torch.float32))
        by_logprobs = zeros if grad_logprobs is None else grad_logprobs / ctx.temperature
        by_entropy = None if grad_entropy is None else grad_entropy / ctx.temperature
        dead = by_logprobs == 0 if by_entropy is None else (by_logprobs == 0) & (by_entropy == 0)
        # Asking a GPU whether there is a masked token would wait for it.
        some_dead = dead.is_cuda or bool(dead.any())
        grad_logits = torch.empty_like(logits)
        for rows, chunk, room in _Chunks(logits, ctx.chunk_size):
            scaled, scale = _scale(chunk, ctx.temperature), by_logprobs[rows, None]
            if by_entropy is None:
                gradient = torch.softmax(scaled, -1, out=room).mul_(-scale)
            else:
                log_p = torch.log_softmax(scaled, -1, out=room).clamp_(min=torch.finfo(room.dtype).min)
                p = torch.exp(log_p, out=chunk)
                weights = log_p.add_(entropy[rows, None]).mul_(by_entropy[rows, None]).add_(scale)
                gradient = weights.mul_(p).neg_()
            gradient.scatter_add_(1, targets[rows, None], scale)
            if some_dead:
                # A masked token has a gradient of zero even if its logits are NaN.
                gradient.masked_fill_(dead[rows, None], 0.0)
            grad_logits[rows] = gradient
        return grad_logits, None, None, None, None, None


def _scale(chunk: Tensor, temperature: float) -> Tensor:
    return chunk if temperature == 1.0 else chunk.div_(temperature)
