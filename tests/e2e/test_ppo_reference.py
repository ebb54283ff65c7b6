"""Two PPO iterations against the slow, plain reference, with everything that a recipe can change about them.

The plain case is in ``test_layouts``; here are the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.harness.compare import at_most, largest_metric_difference, largest_weight_difference
from tests.harness.jobs import Outcome
from tests.harness.layouts import run_spmd
from tests.harness.matrix import Layouts, outcomes
from tests.harness.plain import plain_ppo
from tests.harness.recipes import RATE, VALUE_RATE, ppo_recipe
from tests.reference import ppo_reference

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

VARIANTS: dict[str, dict[str, Any]] = {
    "k3, entropy bonus, higher clip": {"kl_estimator": "k3", "entropy_coef": 0.01, "clip_high": 0.28},
    "k2, dual clip, one minibatch": {"kl_estimator": "k2", "dual_clip": 1.5, "minibatches": 1, "epochs": 3},
    "discounted, adaptive kl": {"gamma": 0.9, "lam": 0.7, "kl_target": 0.5, "kl_horizon": 20},
    "rewards whitened, advantages not": {"whiten_rewards": True, "whiten": False},
    "clipped scores, missing EOS, one sample a prompt": {
        "score_clip": 0.5, "missing_eos_penalty": 1.0, "samples_per_prompt": 1,
    },
    "a colder policy, cut responses bootstrapped": {"temperature": 0.8, "truncated": "bootstrap", "gamma": 0.95},
}  # fmt: skip


# Adam divides by sqrt(v) + eps: of a gradient as small as eps, float32's rounding is amplified to a visible part of
# the learning rate. With "k2, dual clip" one weight has such a gradient in the first step, and ends 3.45 allowances
# apart at eps 1e-8, 1.08 at 1e-7, 0.14 at 1e-6, 0.03 at 1e-5: it is the rounding, and here it is kept out.
EPS = 1e-6


def _recipe(layouts: Layouts, variant: str) -> dict[str, Any]:
    made = ppo_recipe(layouts.starts, **VARIANTS[variant])
    made["optimizer"]["eps"] = EPS
    return made


@pytest.fixture(scope="module")
def runs(layouts: Layouts) -> dict[str, Outcome]:
    """Every variant on one rank."""
    jobs = layouts.jobs("variants", {name: _recipe(layouts, name) for name in VARIANTS})
    run_spmd(jobs, 1, layouts.folder / "variants")
    return outcomes(jobs)


@pytest.fixture
def value_instead_of_score() -> Iterator[None]:
    """The reference adds V to the score of a cut response; distft puts it in the score's place (``end_rewards``)."""
    shape_score = ppo_reference.shape_score

    def shaped(raw: float, ended: bool, settings: ppo_reference.Settings) -> float:
        scored = ended or settings.truncated == "terminal"
        return shape_score(raw if scored else 0.0, ended, settings)

    with patch.object(ppo_reference, "shape_score", shaped):
        yield


@pytest.mark.usefixtures("value_instead_of_score")
@pytest.mark.parametrize("variant", VARIANTS)
def test_variant(layouts: Layouts, runs: dict[str, Outcome], tmp_path: Path, variant: str) -> None:
    got = runs[variant]
    plain = plain_ppo(layouts.starts, _recipe(layouts, variant))
    assert got.rollouts == plain.rollouts()
    expected = [
        metrics | _raw_objective(iteration, metrics["kl_coef"], VARIANTS[variant].get("kl_estimator", "k1"))
        for metrics, iteration in zip(plain.metrics(), plain.iterations, strict=True)
    ]
    assert largest_metric_difference(got.metrics, expected) <= at_most(1e-4)
    # NUMERICS' allowance, for the whole run.
    for role, rate in (("policy", RATE), ("value", VALUE_RATE)):
        assert largest_weight_difference(got.weights(role), plain.weights[role], rate) <= at_most(1), role


def _raw_objective(iteration: ppo_reference.Iteration, kl_coef: float, estimator: str) -> dict[str, float]:
    """distft logs what the reward model said, unclipped and unpunished, and the penalty that was really paid."""
    count = len(iteration.samples)
    score = sum(sample.raw_score for sample in iteration.samples) / count
    penalty = -kl_coef * sum(float(sample.kl.sum()) for sample in iteration.samples) / count
    return {
        "objective/scores": score,
        "objective/non_score_reward": penalty,
        "objective/rlhf_reward": score + penalty,
    }
