"""The fewest GPUs that do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.config.load import load_recipe
from distft.planning.hardware import hardware_of
from distft.planning.plan import make_plan
from distft.planning.smallest import Smallest, fewest, smallest_that_fits
from tests.unit.launch.examples import cpu_cluster, gpu_cluster, recipe

SEVENTY_B = "models.policy.path=meta-llama/Meta-Llama-3-70B-Instruct"


@given(threshold=st.integers(1, 4000), low=st.integers(1, 4000))
def test_the_smallest_number_is_found(threshold: int, low: int) -> None:
    tried: list[int] = []

    def enough(number: int) -> bool:
        tried.append(number)
        return number >= threshold

    assert fewest(enough, low, 4096) == max(low, threshold)
    assert len(tried) < 30


def test_no_number_is_enough() -> None:
    assert fewest(lambda _: False, 3, 1000) == 0


@pytest.mark.parametrize("nodes", [1, 4, 64])
def test_it_does_not_depend_on_how_many_there_are(nodes: int) -> None:
    plan = make_plan(load_recipe("llama3-dpo", [SEVENTY_B]), gpu_cluster(nodes))
    assert plan.smallest == Smallest(3, 8)
    assert plan.smallest.total == 24


@pytest.mark.parametrize("overrides", [[], [SEVENTY_B]])
def test_one_less_does_not_fit(overrides: list[str]) -> None:
    run = load_recipe("llama3-dpo", overrides)
    smallest = smallest_that_fits(run, hardware_of(gpu_cluster(), None))
    assert smallest is not None
    if smallest.nodes == 1:
        there, less = gpu_cluster(1, gpus=smallest.gpus), gpu_cluster(1, gpus=smallest.gpus // 2)
    else:
        there, less = gpu_cluster(smallest.nodes), gpu_cluster(smallest.nodes - 1)
    assert make_plan(run, there).fits is True
    assert make_plan(run, less).fits is False


def test_numbers_that_the_recipe_gives_are_needed() -> None:
    placement = {"policy": {"ranks": 8}, "reference": {"ranks": 4}}
    found = smallest_that_fits(recipe("dpo", {"placement": placement}), hardware_of(gpu_cluster(4), None))
    assert found == Smallest(2, 8)


def test_on_cpus_and_where_nothing_helps_there_is_none() -> None:
    assert smallest_that_fits(recipe("dpo"), hardware_of(cpu_cluster(), None)) is None
    plan = make_plan(
        load_recipe("llama3-ppo", [SEVENTY_B, "models.reward.path=meta-llama/Meta-Llama-3-70B"]), gpu_cluster(2)
    )
    assert plan.fits is False
    assert plan.smallest is None  # no GPU holds the generator's 141 GB
