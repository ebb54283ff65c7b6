"""How a step's sequences become micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

from distft.config.recipe import Recipe
from distft.config.roles import is_rl, judges_asked, longest_sequence, samples_per_step, unit_size


@dataclass(frozen=True)
class BatchArithmetic:
    """One step in numbers. Lengths are upper limits, so the counts of micro-batches and tokens are too.

    ``units`` (pairs, prompts, ...) make ``sequences``; of those that are trained on a rank of the trained role has at
    most ``sequences_per_rank`` in one optimizer step, as ``micro_batches`` of ``rows`` sequences of the longest length;
    ``shared_by`` ranks that compute the same rows have them together; ``packed`` ones are laid in a single row.
    ``optimizer_steps`` happen per step (in RL: per iteration). ``generation_rounds``: batches that a rank generates one
    after the other; 0 without rollouts. ``judge_questions``: how many judges are asked at most.
    """

    unit: str
    units: int
    sequences: int
    longest: int
    tokens: int
    ranks: int
    optimizer_steps: int
    sequences_per_rank: int
    rows: int
    micro_batches: int
    generation_rounds: int
    shared_by: int = 1
    packed: bool = False
    judge_questions: int = 0


def batch_arithmetic(
    recipe: Recipe, ranks: int, shared_by: int = 1, *, role: str = "policy", packed: bool = False
) -> BatchArithmetic:
    """For a role, trained or not, on ``ranks`` ranks, of which ``shared_by`` compute the same rows; fewer count as that
    many. Of roles the policy alone learns from other texts besides."""
    algorithm, sequences, longest = recipe.algorithm, samples_per_step(recipe), longest_sequence(recipe)
    passes, minibatches = algorithm.optimizer_steps()
    unit = unit_size(recipe)
    rows = max(unit, recipe.train.max_tokens_per_rank * shared_by // longest // unit * unit)
    trained = sequences
    if is_rl(recipe):
        trained = algorithm.learned_samples(recipe.train.global_batch_size, recipe.rollout.samples_per_prompt)
    each = _parts(trained // unit, minibatches) + (algorithm.ptx_rows() if role == "policy" else 0)
    per_rank = _parts(each, max(1, ranks // shared_by)) * unit
    rounds = _parts(_parts(sequences, ranks), recipe.rollout.max_batch_per_rank) if is_rl(recipe) else 0
    return BatchArithmetic(
        unit=algorithm.traits.unit.name,
        units=recipe.train.global_batch_size,
        sequences=sequences,
        longest=longest,
        tokens=sequences * longest,
        ranks=ranks,
        optimizer_steps=passes * minibatches,
        sequences_per_rank=per_rank,
        rows=rows,
        micro_batches=_parts(per_rank, rows),
        generation_rounds=rounds,
        shared_by=shared_by,
        packed=packed,
        judge_questions=sum(questions for _, _, questions in judges_asked(recipe, recipe.train.global_batch_size)),
    )


def _parts(number: int, size: int) -> int:
    """``number / size``, rounded up."""
    return -(-number // size)
