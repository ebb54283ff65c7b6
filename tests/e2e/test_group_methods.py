"""Methods without a value model, and with a rule in place of the reward model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.harness.compare import at_most, largest_metric_difference, largest_weight_difference
from tests.harness.jobs import Outcome
from tests.harness.layouts import run_spmd
from tests.harness.matrix import Layouts, outcomes
from tests.harness.recipes import GROUP_METHODS, RATE, group_recipe

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def assert_agree(got: Outcome, expected: Outcome) -> None:
    assert got.error == expected.error == ""
    assert largest_metric_difference(got.metrics, expected.metrics) <= at_most(1e-5)
    assert got.rollouts == expected.rollouts
    assert largest_weight_difference(got.weights("policy"), expected.weights("policy"), RATE) <= at_most(1.0)


def test_grpo_on_four_ranks_is_grpo_on_one(layouts: Layouts) -> None:
    """Of a policy with two new tokens, which prompts hold and it may sample: every rank has begun with the same rows,
    and the reference with the policy's."""
    start = load_file(layouts.starts.policy / "model.safetensors")["model.embed_tokens.weight"]
    alone, four = layouts.alone()["grpo"], layouts.torchrun(4)["grpo"]
    assert_agree(four, alone)
    assert {*alone.held} == {"policy", "reference"}, "no value model, and a rule gives the scores"
    first, second = alone.metrics
    assert first["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert abs(second["objective/kl"]) > 1e-3
    assert first["grad_norm"] > 0
    rows = four.weights("policy")["model.embed_tokens.weight"]
    assert len(rows) == len(start) + 2
    assert 0 < (rows[-2:] - start.mean(dim=0)).abs().max() < 20 * RATE, "they have left the mean, by some steps"


@pytest.fixture(scope="module")
def twins(layouts: Layouts, tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Mapping[str, Outcome]]:
    """Every method by number of ranks."""
    found = {}
    for num_ranks in (1, 2):
        folder: Path = tmp_path_factory.mktemp(f"group-{num_ranks}")
        recipes = {name: group_recipe(layouts.starts, name) for name in GROUP_METHODS}
        jobs = Layouts(folder, layouts.starts).jobs("twins", recipes)
        run_spmd(jobs, num_ranks, folder / "twins")
        found[num_ranks] = outcomes(jobs)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", GROUP_METHODS)
def test_two_ranks_are_one(twins: Mapping[int, Mapping[str, Outcome]], method: str) -> None:
    assert_agree(twins[2][method], twins[1][method])


VIRTUAL_TOKENS = {
    name: ("prompt", "prefix")[number % 2]
    for number, name in enumerate(("online-dpo", "raft", "dapo", "gspo", "cispo", "reinforce-pp"))
}


@pytest.mark.slow
def test_virtual_tokens_of_other_methods(layouts: Layouts, tmp_path: Path) -> None:
    """Which sample with them before every sequence: the invariants hold, and two ranks are one."""
    found = {}
    for num_ranks in (1, 2):
        recipes = {name: group_recipe(layouts.starts, name) for name in VIRTUAL_TOKENS}
        for name, recipe in recipes.items():
            recipe["models"]["policy"]["peft"] = {"method": VIRTUAL_TOKENS[name], "num_virtual_tokens": 4}
        jobs = Layouts(tmp_path / str(num_ranks), layouts.starts).jobs("virtual", recipes)
        run_spmd(jobs, num_ranks, tmp_path / str(num_ranks) / "virtual")
        found[num_ranks] = outcomes(jobs)
    start = load_file(layouts.starts.policy / "model.safetensors")
    for name in VIRTUAL_TOKENS:
        assert_agree(found[2][name], found[1][name])
        assert found[2][name].metrics[0]["grad_norm"] > 0
        assert all(tensor.equal(start[key]) for key, tensor in found[2][name].weights("policy").items())


@pytest.mark.slow
@pytest.mark.parametrize("method", GROUP_METHODS)
def test_the_score_rises(layouts: Layouts, tmp_path: Path, method: str) -> None:
    recipe = group_recipe(layouts.starts, method, steps=24, prompts=8, samples_per_prompt=8)
    jobs = Layouts(tmp_path, layouts.starts).jobs("long", {method: recipe})
    run_spmd(jobs, 1, tmp_path / "long")
    scores = [step["objective/scores"] for step in outcomes(jobs)[method].metrics]
    # 64 samples an iteration: noise moves the difference of two means over four iterations by some 0.02.
    assert sum(scores[-4:]) / 4 > sum(scores[:4]) / 4 + 0.05, scores
