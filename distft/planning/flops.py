"""FLOPs that the model itself asks for in a step of real lengths: what ``perf/mfu`` divides by time and peak.

Forward and backward passes, generation counted as one forward pass over what is read and written; nothing that is
computed twice (gradient checkpointing) and no padding (Chowdhery et al. 2022, appendix B).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distft.config.roles import is_rl, roles
from distft.planning import costs
from distft.planning.batch_arithmetic import batch_arithmetic
from distft.planning.footprint import Roles


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of a step: ``per_token``, and of attention ``per_square`` for the square of each sequence's length."""

    per_token: float
    per_square: float

    def of(self, lengths: Sequence[int]) -> float:
        """FLOPs of a step over sequences of these lengths, all roles together."""
        return self.per_token * sum(lengths) + self.per_square * sum(length * length for length in lengths)


def step_flops(facts: Roles) -> StepFlops:
    """Of a recipe whose models' sizes are known, as often as its phases let each role pass over a sequence.

    In RL log-probabilities are read of responses only, here of the share that they may have of the longest sequence.
    """
    recipe = facts.recipe
    batch = batch_arithmetic(recipe, 1)
    share = recipe.rollout.max_new_tokens / batch.longest if is_rl(recipe) else 1.0
    there = roles(recipe)

    def flops(length: float) -> float:
        total = 0.0
        for work in (work for phase in recipe.algorithm.traits.phases for work in phase.works):
            if work.role not in there or work.does == "sync weights":
                continue
            sizes, read = facts.sizes(work.role), 0.0 if facts.is_scalar(work.role) else share
            if work.does == "update":
                trained = batch_arithmetic(recipe, 1, role=work.role).sequences_per_rank
                passes = batch.optimizer_steps * trained / batch.sequences
                total += passes * costs.training_flops(sizes, 1, length, read, checkpointing=False)
            else:
                total += costs.forward_flops(sizes, 1, length, read)
        return total

    return StepFlops(flops(0), flops(1) - flops(0))
