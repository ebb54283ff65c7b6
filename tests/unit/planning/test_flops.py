"""FLOPs of a step against the sums that papers use."""

from __future__ import annotations

import pytest

from distft.config.recipe import Recipe
from distft.planning.flops import StepFlops, step_flops
from distft.planning.footprint import Roles, SizeBook
from distft.planning.plan import make_plan
from distft.planning.size_sources import sizes_from_config
from tests.unit.launch.examples import LLAMA_8B, gpu_cluster, llama

SIZES = sizes_from_config(LLAMA_8B)
LENGTHS = (100, 2000)
# Of one forward pass: 2 a parameter that is multiplied with, 4 x layers x hidden for each token that a token looks at.
FORWARD = 2 * (SIZES.active + SIZES.vocab_head) * sum(LENGTHS)
ATTENTION = 4 * SIZES.layers * 4096 * sum(length**2 for length in LENGTHS)


def flops_of(recipe: Recipe) -> StepFlops:
    return step_flops(Roles(recipe, SizeBook()))


def test_training_is_three_passes_at_the_real_lengths_without_what_is_computed_twice() -> None:
    assert flops_of(llama("sft")).of(LENGTHS) == pytest.approx(3 * (FORWARD + ATTENTION))
    twice = llama("sft", gradient_checkpointing=True)
    assert flops_of(twice).of(LENGTHS) == flops_of(llama("sft")).of(LENGTHS)


def test_a_reference_reads_every_token_once_more() -> None:
    assert flops_of(llama("dpo")).of(LENGTHS) == pytest.approx(4 * (FORWARD + ATTENTION))


def test_ppo_counts_every_role_and_every_epoch() -> None:
    """Without heads: four forward passes, one that generates, and two models trained, so often."""
    one, two = (
        flops_of(llama("ppo", {"algorithm.epochs": epochs, "algorithm.minibatches": 4})).per_square for epochs in (1, 2)
    )
    square = 4 * SIZES.layers * 4096
    assert one == pytest.approx((5 + 2 * 3) * square)
    assert two == pytest.approx((5 + 2 * 2 * 3) * square)


def test_the_plan_says_it_where_sizes_are_known() -> None:
    plan = make_plan(llama("sft"), gpu_cluster(4))
    assert plan.flops == flops_of(llama("sft"))
    assert type(plan).model_validate_json(plan.model_dump_json()).flops == plan.flops
