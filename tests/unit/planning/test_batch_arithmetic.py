"""Units to sequences to micro-batches."""

from __future__ import annotations

import pytest

from distft.config.load import load_recipe
from distft.planning.batch_arithmetic import batch_arithmetic
from tests.unit.launch.examples import recipe


def test_pairs() -> None:
    """10 pairs on 4 ranks: 3 pairs (6 rows) on the fullest; 1000 tokens hold 7 rows of 128, 3 whole pairs."""
    changes = {"train.global_batch_size": 10, "train.max_tokens_per_rank": 1000}
    batch = batch_arithmetic(recipe("dpo", changes), 4)
    assert (batch.unit, batch.units, batch.sequences, batch.longest) == ("pairs", 10, 20, 128)
    assert (batch.sequences_per_rank, batch.rows, batch.micro_batches) == (6, 6, 1)
    assert (batch.optimizer_steps, batch.generation_rounds) == (1, 0)


def test_iteration_of_ppo() -> None:
    """8 prompts x 4 samples = 32 sequences; 2 passes of 4 minibatches of 8 sequences, 4 a rank, 2 rows at a time."""
    changes = {
        "algorithm": {"kind": "ppo", "epochs": 2, "minibatches": 4},
        "rollout": {"max_new_tokens": 64, "samples_per_prompt": 4, "max_batch_per_rank": 6},
        "train.max_tokens_per_rank": 300,
    }
    batch = batch_arithmetic(recipe("ppo", changes), 2)
    assert (batch.unit, batch.units, batch.sequences, batch.tokens) == ("prompts", 8, 32, 32 * 128)
    assert (batch.optimizer_steps, batch.sequences_per_rank, batch.rows, batch.micro_batches) == (8, 4, 2, 2)
    assert batch.generation_rounds == 3  # 16 sequences a rank, 6 at a time


def test_an_iteration_that_trains_on_pairs_of_what_it_sampled() -> None:
    """8 prompts x 4 samples, of which 8 pairs are trained on: 2 minibatches of 4 pairs, 2 a rank, 1 at a time."""
    changes = {
        "algorithm": {"kind": "online_dpo", "epochs": 2, "minibatches": 2},
        "models.value": None,
        "rollout": {"max_new_tokens": 64, "samples_per_prompt": 4, "max_batch_per_rank": 16},
        "train.max_tokens_per_rank": 300,
    }
    batch = batch_arithmetic(recipe("ppo", changes), 2)
    assert (batch.unit, batch.units, batch.sequences, batch.tokens) == ("prompts", 8, 32, 32 * 128)
    assert (batch.optimizer_steps, batch.sequences_per_rank, batch.rows, batch.micro_batches) == (4, 4, 2, 2)
    assert batch.generation_rounds == 1


def test_ranks_that_share_rows_have_them_together() -> None:
    """10 pairs on 2 groups of 2 ranks: 5 pairs each; 500 tokens a rank are 1000 together, 3 whole pairs of 128."""
    changes = {"train.global_batch_size": 10, "train.max_tokens_per_rank": 500}
    batch = batch_arithmetic(recipe("dpo", changes), 4, 2)
    assert (batch.ranks, batch.shared_by, batch.sequences_per_rank, batch.rows, batch.micro_batches) == (4, 2, 10, 6, 2)


def test_other_texts_are_the_policys() -> None:
    """8 prompts x 2 samples and 4 texts in each of 2 minibatches, on 2 ranks."""
    made = load_recipe("ppo-ptx-tiny", ["train.global_batch_size=8", "rollout.samples_per_prompt=2",
                                        "algorithm.minibatches=2", "algorithm.ptx_batch=4"])  # fmt: skip
    per_rank = {role: batch_arithmetic(made, 2, role=role).sequences_per_rank for role in ("policy", "value")}
    assert per_rank == {"policy": 6, "value": 4}


@pytest.mark.parametrize("ranks", [1, 3, 8, 64])
def test_micro_batches_hold_all_sequences(ranks: int) -> None:
    batch = batch_arithmetic(recipe("sft", {"train.global_batch_size": 13}), ranks)
    assert batch.micro_batches * batch.rows >= batch.sequences_per_rank
    assert batch.sequences_per_rank * ranks >= batch.sequences
