"""Five steps beside TRL 1.16's trainers: the same weights, rows and order, float32, learning rate falling to 0.

The longest SFT and DPO rows are cut: both keep the start and add no EOS to it. TRL's reward trainer would drop such
pairs, so none is cut there.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness.compare import at_most, largest_metric_difference, largest_weight_difference
from tests.harness.corpus import LABELLED, PAIRS, REWARD_ENDS
from tests.harness.jobs import Outcome
from tests.harness.layouts import run_spmd
from tests.harness.matrix import FEW_ENDS, Layouts, outcomes
from tests.harness.recipes import (
    NEW_TOKENS,
    RATE,
    TRL_PROMPTS,
    TRL_SAMPLES,
    reward_end_recipe,
    sampled_recipe,
    supervised_recipe,
)
from tests.harness.rules import letters_e
from tests.reference.trl_runs import TrlRun, run_trl

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

EVERY = ["loss", "grad_norm", "learning_rate", "num_tokens"]
SFT = [*EVERY, "entropy"]
REWARD = [*EVERY, "accuracy", "margin", "min_reward", "mean_reward", "max_reward"]
DPO = [
    *EVERY,
    *(f"rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")),
    *(f"{kind}/{side}" for kind in ("logps", "logits") for side in ("chosen", "rejected")),
]
ORPO = [
    "loss",
    "grad_norm",
    "learning_rate",
    *("nll_loss", "log_odds_ratio", "log_odds_chosen"),
    *(f"rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")),
    *(f"logps/{side}" for side in ("chosen", "rejected")),
]
KTO = [
    *EVERY,
    "kl",
    *(f"rewards/{name}" for name in ("chosen", "rejected", "margins")),
    *(f"{kind}/{side}" for kind in ("logps", "logits") for side in ("chosen", "rejected")),
]
GROUP = [
    *("loss", "grad_norm", "learning_rate", "reward", "reward_std", "kl", "entropy"),
    *(f"completions/{name}" for name in ("mean_length", "min_length", "max_length", "clipped_ratio")),
    *(f"clip_ratio/{name}_mean" for name in ("low", "high", "region")),
]
OPTIONS: dict[str, Any] = {"batch_size": 4, "learning_rate": RATE, "steps": 5, "schedule": "linear"}


def assert_same(got: Outcome, trl: TrlRun, names: list[str], role: str) -> None:
    assert trl.rows == list(range(len(PAIRS)))  # TRL took every row, so the batches are the same
    assert_same_steps(got, trl.logs, trl, names, role)


def assert_same_steps(got: Outcome, logs: list[dict[str, float]], trl: TrlRun, names: list[str], role: str) -> None:
    assert len(logs) == 5
    assert logs[-1]["loss"] != pytest.approx(logs[0]["loss"], rel=1e-2)
    assert largest_metric_difference(got.metrics, logs, names) <= at_most(1e-4)
    weights = {name: trl.weights[name] for name in got.weights(role)}  # TRL's state lists tied weights twice
    # NUMERICS' allowance for each of the updates: Adam makes whole steps of gradients that are all rounding.
    assert largest_weight_difference(got.weights(role), weights, RATE) <= at_most(float(len(trl.logs)))


def test_sft(layouts: Layouts) -> None:
    rows = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in PAIRS]
    trl = run_trl("sft", layouts.starts.policy, rows, max_length=20, **OPTIONS)
    assert any(len(sequence) == 20 for batch in trl.batches for sequence in batch.sequences)
    assert_same(layouts.alone()["trl-sft"], trl, SFT, "policy")


def test_reward(layouts: Layouts) -> None:
    trl = run_trl("reward", layouts.starts.reward, PAIRS, max_length=96, **OPTIONS)
    assert_same(layouts.alone()["trl-reward"], trl, REWARD, "reward")


def assert_same_reward(outcome: Outcome, layouts: Layouts, name: str) -> None:
    start = layouts.starts.reward_end(name)
    trl = run_trl("reward", start.model, start.pairs, max_length=96, **OPTIONS)
    assert_same(outcome, trl, REWARD, "reward")


@pytest.mark.parametrize("name", FEW_ENDS)
def test_reward_is_read_where_trl_reads_it(layouts: Layouts, name: str) -> None:
    """At the last token that is not padding: the line break of a template, or the token before EOS where EOS pads."""
    assert_same_reward(layouts.alone()[f"trl-reward-{name}"], layouts, name)


def test_dpo(layouts: Layouts) -> None:
    trl = run_trl("dpo", layouts.starts.policy, PAIRS, max_length=20, **OPTIONS)
    assert any(len(sequence) == 20 for batch in trl.batches for sequence in batch.sequences)
    assert_same(layouts.alone()["trl-dpo"], trl, DPO, "policy")


def test_kto(layouts: Layouts) -> None:
    """With a divergence that moves the loss in some of the steps, and is below 0 in others."""
    trl = run_trl("kto", layouts.starts.policy, LABELLED, max_length=96, **OPTIONS)
    assert [log["kl"] > 0.1 for log in trl.logs] == [False, True, False, True, False]
    assert_same(layouts.alone()["trl-kto"], trl, KTO, "policy")


# By name: the keys of ``algorithm``, and TRL's for the same. TRL multiplies the KL by the ratio unless told not to.
SAMPLED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({"kind": "grpo"}, {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False}),
    "dr_grpo": (
        {"kind": "grpo", "scale_rewards": False, "average": "constant", "constant_length": NEW_TOKENS, "kl_coef": 0.1},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.1, "use_bias_correction_kl": False},
    ),
    "dapo": (
        {"kind": "dapo", "group_filter": "none"},
        {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.0},
    ),
    "gspo": (
        {"kind": "gspo"},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4,
         "beta": 0.0},
    ),
    # TRL takes the bound of the weights itself, not how far above 1 it is.
    "cispo": ({"kind": "cispo", "clip_high": 0.01}, {"loss_type": "cispo", "epsilon_high": 1.01, "beta": 0.0}),
    "rloo": ({"kind": "rloo", "clip_high": 0.3}, {"beta": 0.05, "epsilon_high": 0.3}),
}  # fmt: skip


def assert_same_as_trls(name: str, got: Outcome, layouts: Layouts) -> None:
    """TRL is given the answers that were sampled here, in the iterations that they were sampled in."""
    _, options = SAMPLED[name]
    trl = run_trl(
        "rloo" if name == "rloo" else "grpo",
        layouts.starts.other_policy,
        [{"prompt": pair["prompt"]} for pair in PAIRS],
        answers=got.rollouts,
        rewards=[letters_e],
        **{**OPTIONS, "batch_size": TRL_PROMPTS * TRL_SAMPLES, "steps": 10},
        num_iterations=2,
        num_generations=TRL_SAMPLES,
        max_completion_length=NEW_TOKENS,
        **options,
    )
    assert len(trl.batches) == len(got.rollouts) == 5
    logs = [mean_of(trl.logs[step : step + 2]) for step in range(0, 10, 2)]
    compared = [metric for metric in GROUP if metric in logs[0]] + (["frac_reward_zero_std"] if name != "rloo" else [])
    assert "kl" in compared or not options["beta"]
    assert max(step["reward_std"] for step in logs) > 0
    assert_same_steps(got, logs, trl, compared, "policy")


def mean_of(logs: list[dict[str, float]]) -> dict[str, float]:
    """Of each metric that any of the logs has."""
    names = {name for log in logs for name, value in log.items() if isinstance(value, float)}
    found = {name: [log[name] for log in logs if name in log] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def test_grpo(layouts: Layouts) -> None:
    """Twice over the same answers: the second time the ratio is not 1."""
    assert_same_as_trls("grpo", layouts.alone()["trl-grpo"], layouts)


@pytest.fixture(scope="module")
def sampled(layouts: Layouts) -> dict[str, Outcome]:
    """A run of each of the others that sample."""
    recipes = {name: sampled_recipe(layouts.starts, **keys) for name, (keys, _) in SAMPLED.items() if name != "grpo"}
    jobs = layouts.jobs("sampled", recipes)
    run_spmd(jobs, 1, layouts.folder / "sampled")
    return outcomes(jobs)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SAMPLED if name != "grpo"])
def test_what_samples(layouts: Layouts, sampled: dict[str, Outcome], name: str) -> None:
    assert_same_as_trls(name, sampled[name], layouts)


KIN: dict[str, dict[str, Any]] = {
    "sigmoid": {},  # TRL's has no label smoothing
    "hinge": {},
    "ipo": {},
    "robust": {"label_smoothing": 0.1},
    "exo_pair": {"label_smoothing": 0.01},
    "nca_pair": {},
    "sppo_hard": {},
    "apo_zero": {},
    "apo_down": {},
    "bco_pair": {},
    "discopop": {},
    "sigmoid_norm": {},
}


TR_DPO: dict[str, Any] = {"kind": "dpo", "sync_every": 2, "sync_alpha": 0.7}
ENDS = [name for name in REWARD_ENDS if name not in FEW_ENDS]


@pytest.fixture(scope="module")
def kin(layouts: Layouts) -> dict[str, Outcome]:
    """A run of each of DPO's kin, of ORPO, and of reward models on rows of the other families."""
    starts = layouts.starts
    recipes = {
        name: supervised_recipe(starts, {"kind": "dpo", "loss": name, **keys}, role="policy", path=starts.policy)
        for name, keys in KIN.items()
    } | {name: reward_end_recipe(starts, name) for name in ENDS}
    recipes["tr"] = supervised_recipe(starts, TR_DPO, role="policy", path=starts.policy)
    recipes["orpo"] = supervised_recipe(starts, {"kind": "orpo"}, role="policy", path=starts.policy)
    jobs = layouts.jobs("kin", recipes)
    run_spmd(jobs, 1, layouts.folder / "kin")
    return outcomes(jobs)


@pytest.mark.slow
@pytest.mark.parametrize("loss", KIN)
def test_dpo_kin(layouts: Layouts, kin: dict[str, Outcome], loss: str) -> None:
    trl = run_trl("dpo", layouts.starts.policy, PAIRS, max_length=96, loss_type=[loss], **KIN[loss], **OPTIONS)
    assert_same(kin[loss], trl, DPO, "policy")


@pytest.mark.slow
def test_a_reference_that_follows(layouts: Layouts, kin: dict[str, Outcome]) -> None:
    followed = {"sync_ref_model": True, "ref_model_mixup_alpha": 0.7, "ref_model_sync_steps": 2}
    trl = run_trl("dpo", layouts.starts.policy, PAIRS, max_length=96, **followed, **OPTIONS)
    assert_same(kin["tr"], trl, DPO, "policy")
    stays = kin["sigmoid"].metrics[2]["rewards/margins"]
    assert abs(kin["tr"].metrics[2]["rewards/margins"] - stays) > 1e-3, "else it did not follow"


@pytest.mark.slow
def test_orpo(layouts: Layouts, kin: dict[str, Outcome]) -> None:
    trl = run_trl("orpo", layouts.starts.policy, PAIRS, max_length=96, **OPTIONS)
    assert_same(kin["orpo"], trl, ORPO, "policy")


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDS)
def test_reward_of_other_families(layouts: Layouts, kin: dict[str, Outcome], name: str) -> None:
    assert_same_reward(kin[name], layouts, name)
