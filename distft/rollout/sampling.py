"""Sampling that does not depend on the layout: the draw is a function of (seed, iteration, sample, position)."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from distft.batches import Array
from distft.rollout.generator import Sampling


def uniforms(seed: int, iteration: int, sample: int, count: int) -> Array:
    """``count`` numbers in [0, 1), float64, one a position: the same on any rank and in any batch."""
    digest = hashlib.blake2b(f"{seed}/{iteration}/{sample}".encode(), digest_size=16).digest()
    bits = np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64))
    return np.random.Generator(bits).random(count)


class InverseCdf:
    """A logits processor that leaves exactly one token possible: the one the uniform number points at.

    With it ``generate(do_sample=False)`` samples, and records the log-prob of what it chose.
    """

    def __init__(self, draws: Tensor, sampling: Sampling, stop_tokens: tuple[int, ...]) -> None:
        self._draws, self._sampling, self._stop_tokens = draws, sampling, list(stop_tokens)
        self.logprobs: list[Tensor] = []

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        position = len(self.logprobs)
        temperature = 1.0 if self._sampling.greedy else self._sampling.temperature
        logprobs = torch.log_softmax(scores.float() / temperature, dim=-1)
        allowed = logprobs
        if position < self._sampling.min_new_tokens:
            allowed = allowed.clone()
            allowed[:, self._stop_tokens] = -torch.inf
        if self._sampling.greedy:
            chosen = allowed.argmax(dim=-1, keepdim=True)
        else:
            chosen = choose(_restrict(allowed, self._sampling), self._draws[:, position])
        self.logprobs.append(logprobs.gather(1, chosen).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)


def choose(logprobs: Tensor, draws: Tensor) -> Tensor:
    """The first token whose cumulated probability exceeds the draw, ``[rows, 1]``.

    Float64: a float32 running sum over a large vocabulary is off by more than a rare token's share.
    """
    cumulated = logprobs.double().exp().cumsum(dim=-1)
    target = draws.to(cumulated).unsqueeze(1) * cumulated[:, -1:]
    chosen = torch.searchsorted(cumulated, target, right=True)
    # A draw on the very top of the sum would point behind the last possible token.
    last = logprobs.shape[-1] - 1 - logprobs.isfinite().flip(-1).int().argmax(dim=-1, keepdim=True)
    return torch.minimum(chosen, last)


def _restrict(logprobs: Tensor, sampling: Sampling) -> Tensor:
    if 0 < sampling.top_k < logprobs.shape[-1]:
        kth = logprobs.topk(sampling.top_k, dim=-1).values[:, -1:]
        logprobs = logprobs.masked_fill(logprobs < kth, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, order = logprobs.sort(dim=-1, descending=True)
        share = ordered.exp()
        beyond = share.cumsum(dim=-1) - share >= sampling.top_p * share.sum(dim=-1, keepdim=True)
        logprobs = logprobs.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -torch.inf)
    return logprobs
