"""Sampling that does not depend on the layout: the draw is a function of (seed, iteration, sample, position)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distft.batches import Array
from distft.rollout.generator import Sampling


def uniforms(seed: int, iteration: int, sample: int, count: int) -> Array:
    """``count`` numbers in [0, 1), float64, one a position: the same on any rank and in any batch."""
    digest = hashlib.blake2b(f"{seed}/{iteration}/{sample}".encode(), digest_size=16).digest()
    bits = np.random.Philox(key=np.frombuffer(digest, dtype="<u8"))
    return np.random.Generator(bits).random(count)


def draws(seed: int, iteration: int, sample: int, sampling: Sampling) -> Array:
    """The numbers of the positions that are sampled: of a response that goes on, those that it would have had."""
    return uniforms(seed, iteration, sample, sampling.first + sampling.max_new_tokens)[sampling.first :]


class InverseCdf:
    """A logits processor that leaves exactly one token possible: the one the uniform number points at.

    With it ``generate(do_sample=False)`` samples, and records the log-prob of what it chose. It is called
    once a token, so it goes over ``[rows, vocabulary]`` as few times as it can, and overwrites its input.
    """

    def __init__(
        self, draws: Tensor, sampling: Sampling, stop_tokens: tuple[int, ...], first: int | None = None
    ) -> None:
        """``first``: the token that the model's settings force an answer to begin with, whatever is drawn."""
        self._draws, self._sampling, self._stop_tokens, self._first = draws, sampling, stop_tokens, first
        self.logprobs: list[Tensor] = []

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        position = len(self.logprobs)
        early = torch.full((len(scores),), position < self._sampling.min_new_tokens, device=scores.device)
        forced = self._first if position == 0 else None
        chosen, logprobs = drawn(
            scores, self._draws[:, position], early, self._sampling, self._stop_tokens, forced=forced
        )
        self.logprobs.append(logprobs)
        return scores.fill_(-torch.inf).scatter_(1, chosen, 0.0)


def drawn(
    scores: Tensor,
    draws: Tensor,
    early: Tensor,
    sampling: Sampling,
    stop_tokens: Sequence[int],
    *,
    forced: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The next token of each row, ``[rows, 1]``, and its log-prob under the sampling temperature, ``[rows]``.

    ``scores [rows, vocabulary]`` are the model's; ``draws [rows]`` uniform numbers; no row that is ``early`` (bool
    ``[rows]``) may end yet; a ``forced`` token is taken whatever is drawn.
    """
    plain = sampling.greedy or sampling.temperature == 1.0
    scaled = scores.float() if plain else scores.float() / sampling.temperature
    highest = scaled.amax(dim=-1, keepdim=True)
    shares = (scaled - highest).exp_()
    total = shares.sum(dim=-1, keepdim=True, dtype=torch.float64)
    allowed = scaled
    if sampling.min_new_tokens and bool(early.any()):
        # Shares of what is left, not what is left of the shares: beside a certain end all of those can be 0.
        endless = scaled.index_fill(1, torch.tensor(list(stop_tokens), device=scaled.device), -torch.inf)
        allowed = torch.where(early.unsqueeze(1), endless, scaled)
        shares = (allowed - allowed.amax(dim=-1, keepdim=True)).exp_()
    if forced is not None:
        chosen = torch.full_like(highest, forced, dtype=torch.int64)
    elif sampling.greedy:
        chosen = allowed.argmax(dim=-1, keepdim=True)
    else:
        chosen = choose(restrict(shares, sampling), draws)
    return chosen, logprob_of(chosen, scaled, highest, total)


def logprob_of(tokens: Tensor, scaled: Tensor, highest: Tensor, total: Tensor) -> Tensor:
    """Log-probs of ``tokens [rows, 1]``: ``scaled [rows, vocabulary]``, of which ``highest`` is the largest, and
    ``total`` the sum of ``exp(scaled - highest)``, both ``[rows, 1]``."""
    return (scaled.gather(1, tokens) - highest - total.log()).squeeze(1).float()


def choose(shares: Tensor, draws: Tensor) -> Tensor:
    """The first token whose cumulated share exceeds the draw's part of their sum, ``[rows, 1]``.

    ``shares [rows, vocabulary]`` are probabilities up to a factor. The sum runs in float64: in float32 it
    is off by more than a rare token's share. A draw below 1 (a multiple of 2**-53) stays below the sum
    after the product too, so that a token with a share is always found; the clamp is for NaN.
    """
    cumulated = shares.cumsum(dim=-1, dtype=torch.float64)
    target = draws.to(cumulated).unsqueeze(1) * cumulated[:, -1:]
    return torch.searchsorted(cumulated, target, right=True).clamp_(max=shares.shape[-1] - 1)


def restrict(shares: Tensor, sampling: Sampling) -> Tensor:
    """The shares of the ``top_k`` likeliest tokens, then of the fewest that hold ``top_p`` of what is left."""
    if 0 < sampling.top_k < shares.shape[-1]:
        kth = shares.topk(sampling.top_k, dim=-1).values[:, -1:]
        shares = shares.masked_fill(shares < kth, 0.0)
    if sampling.top_p < 1.0:
        ordered, order = shares.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1, dtype=torch.float64) - ordered
        beyond = before >= sampling.top_p * ordered.sum(dim=-1, keepdim=True, dtype=torch.float64)
        shares = shares.masked_fill(torch.zeros_like(beyond).scatter_(1, order, beyond), 0.0)
    return shares
