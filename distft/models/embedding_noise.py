"""Noise on the embeddings of what is trained on: NEFTune (Jain et al. 2023, section 2).

To the embeddings of a sequence of L tokens and width d is added noise uniform in [-b, b], b = alpha / sqrt(L d). L is
the sequence's own length, as in the paper (transformers takes that of the padded batch, so there the noise depends on
which rows stand beside each other), and every number follows from the run's seed, the optimizer step and the sample:
neither from the ranks nor from the micro-batches, and a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distft.common.seeding import derive


class EmbeddingNoise:
    """Adds to the input embeddings of a causal model while it is ``on``, and else nothing: what is evaluated, read or
    generated has none."""

    def __init__(self, model: Any, alpha: float, seed: int, *, packed: bool = False) -> None:
        self._alpha, self._seed, self._packed = alpha, seed, packed
        self._rows: Sequence[tuple[int, int]] = ()
        embedding: nn.Module = model.get_input_embeddings()
        embedding.register_forward_hook(self._add)

    @contextmanager
    def on(self, step: int, samples: Sequence[int], lengths: Sequence[int]) -> Iterator[None]:
        """For a micro-batch of optimizer step ``step``: its ``samples`` by their numbers in the step, in the order
        in which they stand, and how many tokens each has."""
        self._rows = [
            (derive(self._seed, "embedding noise", step, sample), length)
            for sample, length in zip(samples, lengths, strict=True)
        ]
        try:
            yield
        finally:
            self._rows = ()

    def _add(self, _module: nn.Module, _args: Any, embedded: Tensor) -> Tensor | None:
        """``embedded [rows, longest, width]``, or of a packed row ``[1, tokens, width]``; padding gets none."""
        if not self._rows:
            return None
        width, noise = embedded.shape[-1], torch.zeros_like(embedded, dtype=torch.float32)
        start = 0
        for row, (seed, length) in enumerate(self._rows):
            generator = torch.Generator(embedded.device).manual_seed(seed)
            bound = self._alpha / (length * width) ** 0.5
            drawn = torch.empty((length, width), dtype=torch.float32, device=embedded.device)
            place = (0, slice(start, start + length)) if self._packed else (row, slice(length))
            noise[place] = drawn.uniform_(-bound, bound, generator=generator)
            start += length
        return embedded + noise.to(embedded.dtype)
