"""What every generation engine answers to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from distft.batches import Array, Batch


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. ``greedy`` ignores temperature, top_p and top_k; ``first`` is the place of the first token
    in its response, where that has been begun before."""

    max_new_tokens: int
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    greedy: bool = False
    first: int = 0


class Generator(Protocol):
    """One rank's generation engine.

    ``generate`` takes prompts of any number and answers, for each, the response tokens, its own log-probs
    of them (float32, softmax at the sampling temperature, before top-p and top-k) and whether it ended by
    itself. The draw at a position depends on ``uniforms`` alone, never on what else is in the batch.
    """

    version: int

    def generate(self, prompts: Sequence[Array], uniforms: Sequence[Array], sampling: Sampling) -> Batch:
        """Columns ``response_ids``, ``sampled_logprobs`` (ragged) and ``ended`` (dense), a row a prompt; and
        ``routed_experts``, where that is recorded."""
        ...
