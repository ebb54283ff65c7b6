"""The same answer on any layout: plain torch, one rank alone (unsharded), Ray's actors and torchrun's ranks at ZeRO-3.

Rows are padded; packed ones are in test_packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.harness.compare import at_most, largest_metric_difference, largest_weight_difference
from tests.harness.jobs import Outcome
from tests.harness.layouts import run_spmd
from tests.harness.matrix import Layouts, outcomes
from tests.harness.plain import PlainDpo, PlainPpo, plain_apart_ppo, plain_dpo, plain_ppo
from tests.harness.recipes import RATE, VALUE_RATE, apart_ppo_recipe, dpo_recipe, ppo_recipe, with_shared_rows

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

METRICS = 1e-5
TRAINED = {"dpo": {"policy": RATE}, "ppo": {"policy": RATE, "value": VALUE_RATE}}


@pytest.fixture(scope="module")
def dpo(layouts: Layouts) -> PlainDpo:
    """The DPO run in plain torch."""
    return plain_dpo(layouts.starts, layouts.both["dpo"])


@pytest.fixture(scope="module")
def ppo(layouts: Layouts) -> PlainPpo:
    """The PPO run in plain torch."""
    return plain_ppo(layouts.starts, layouts.both["ppo"])


def assert_agree(kind: str, got: Outcome, expected: Outcome) -> None:
    """Two layouts: all metrics, tokens and weights."""
    assert largest_metric_difference(got.metrics, expected.metrics) <= at_most(METRICS)
    assert got.rollouts == expected.rollouts
    assert_weights_agree(kind, got, {role: expected.weights(role) for role in TRAINED[kind]})


def assert_weights_agree(kind: str, got: Outcome, expected: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    for role, rate in TRAINED[kind].items():
        assert largest_weight_difference(got.weights(role), expected[role], rate) <= at_most(1.0), role


def test_dpo_alone_is_plain_torch(layouts: Layouts, dpo: PlainDpo) -> None:
    got = layouts.alone()["dpo"]
    assert dpo.metrics[1]["loss"] < dpo.metrics[0]["loss"] - 1e-3  # something was learned, or the rest proves little
    assert largest_metric_difference(got.metrics, dpo.metrics) <= at_most(METRICS)
    assert_weights_agree("dpo", got, {"policy": dpo.weights})


def test_ppo_alone_is_plain_torch(layouts: Layouts, ppo: PlainPpo) -> None:
    got = layouts.alone()["ppo"]
    assert got.rollouts == ppo.rollouts()
    ended = [sample.ended for iteration in ppo.iterations for sample in iteration.samples]
    assert 0 < sum(ended) < len(ended)  # both kinds of endings are there
    assert abs(ppo.iterations[1].metrics["objective/kl"]) > 1e-2
    assert largest_metric_difference(got.metrics, ppo.metrics()) <= at_most(METRICS)
    assert_weights_agree("ppo", got, ppo.weights)


def test_ppo_of_an_encoder_decoder_alone_is_plain_torch(layouts: Layouts) -> None:
    got = layouts.alone()["ppo-apart"]
    plain = plain_apart_ppo(layouts.starts, apart_ppo_recipe(layouts.starts))
    assert got.rollouts == plain.rollouts()
    ended = [sample.ended for iteration in plain.iterations for sample in iteration.samples]
    assert 0 < sum(ended) < len(ended)
    assert plain.iterations[1].metrics["objective/scores"] > 0
    assert abs(plain.iterations[1].metrics["objective/kl"]) > 1e-2
    assert largest_metric_difference(got.metrics, plain.metrics()) <= at_most(METRICS)
    assert_weights_agree("ppo", got, plain.weights)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ppo_of_an_encoder_decoder_on_torchruns_ranks(layouts: Layouts, num_ranks: int) -> None:
    assert_agree("ppo", layouts.torchrun_one(num_ranks, "ppo-apart"), layouts.alone()["ppo-apart"])


@pytest.mark.slow
def test_one_rank_at_zero_3(layouts: Layouts, tmp_path: Path) -> None:
    """Offloaded parameters keep one rank at stage 3, where it would otherwise be spared the sharding."""
    recipes = {"dpo": dpo_recipe(layouts.starts), "ppo": ppo_recipe(layouts.starts)}
    for recipe in recipes.values():
        for model in recipe["models"].values():
            model["engine"]["offload_parameters"] = "cpu"
    found = outcomes(jobs := Layouts(tmp_path, layouts.starts).jobs("zero-3", recipes))
    run_spmd(jobs, 1, tmp_path / "zero-3")
    for kind, outcome in found.items():
        assert_agree(kind, outcome, layouts.alone()[kind])


def test_four_ranks_of_torchrun(layouts: Layouts) -> None:
    assert_agree("ppo", layouts.torchrun(4)["ppo"], layouts.alone()["ppo"])


def test_two_of_four_ranks_share_rows(layouts: Layouts) -> None:
    assert_agree("ppo", layouts.torchrun(4)["ppo-shared"], layouts.alone()["ppo"])


@pytest.mark.ray
def test_two_ranks_a_role_through_ray(layouts: Layouts) -> None:
    assert_agree("ppo", layouts.ray(2, "ppo"), layouts.alone()["ppo"])


# What follows goes another way to what is compared above; DPO's loss on four ranks is in test_layouts_losses.


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(("kind", "num_ranks"), [("dpo", 1), ("dpo", 2), ("ppo", 1)])
def test_other_roles_and_ranks_through_ray(layouts: Layouts, kind: str, num_ranks: int) -> None:
    assert_agree(kind, layouts.ray(num_ranks, kind), layouts.alone()[kind])


@pytest.mark.slow
def test_two_ranks_of_torchrun(layouts: Layouts) -> None:
    assert_agree("ppo", layouts.torchrun(2)["ppo"], layouts.alone()["ppo"])


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_dpo_of_torchruns_ranks(layouts: Layouts, num_ranks: int) -> None:
    assert_agree("dpo", layouts.torchrun_one(num_ranks, "dpo"), layouts.alone()["dpo"])


@pytest.mark.slow
def test_all_ranks_share_rows(layouts: Layouts, tmp_path: Path) -> None:
    recipes = {kind: with_shared_rows(layouts.both[kind], 2) for kind in ("dpo", "ppo")}
    found = outcomes(jobs := Layouts(tmp_path, layouts.starts).jobs("shared", recipes))
    run_spmd(jobs, 2, tmp_path / "shared")
    for kind, outcome in found.items():
        assert_agree(kind, outcome, layouts.alone()[kind])


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 4])
def test_other_caps_and_generation_from_the_shards(layouts: Layouts, tmp_path: Path, num_ranks: int) -> None:
    """Micro-batches of one unit or of everything, whole sequences generated at once, weights gathered or not."""
    recipes = {
        "dpo": dpo_recipe(layouts.starts, cap=5000),
        "ppo": ppo_recipe(layouts.starts, cap=5000),
        "ppo-small": ppo_recipe(layouts.starts, cap=50),
        "ppo-sharded": ppo_recipe(layouts.starts),
    }
    recipes["ppo"]["rollout"]["max_batch_per_rank"] = 64
    recipes["ppo-sharded"]["rollout"]["weights"] = "sharded"
    found = outcomes(jobs := Layouts(tmp_path, layouts.starts).jobs("caps", recipes))
    run_spmd(jobs, num_ranks, tmp_path / "caps")
    for name, outcome in found.items():
        kind = name.partition("-")[0]
        assert_agree(kind, outcome, layouts.alone()[kind])
