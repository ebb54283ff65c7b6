"""The PPO reference against numbers worked by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from tests.reference import ppo_reference as ppo

EOS = 1
SETTINGS = ppo.Settings(eos_id=EOS, max_new_tokens=6, learning_rate=1e-3)


def sample(rewards_and_values: list[tuple[float, float]] | None = None, **changes: Any) -> ppo.Sample:
    values = torch.tensor([v for _, v in rewards_and_values or [(0.0, 0.0)]])
    zeros = torch.zeros(len(values))
    made = ppo.Sample([5, 6], [7] * len(values), True, zeros.clone(), zeros.clone(), values, 0.0, 0.0)
    for name, change in changes.items():
        setattr(made, name, change)
    return made


def test_gae_by_hand() -> None:
    """From the end: 3 - 0.5 = 2.5; 2 + 0.45 - 1 + 0.45 * 2.5 = 2.575; 1 + 0.9 - 2 + 0.45 * 2.575 = 1.05875."""
    got = ppo.gae(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 1.0, 0.5]), 0.9, 0.5)
    torch.testing.assert_close(got, torch.tensor([1.05875, 2.575, 2.5]))


def test_gae_with_lam_one_is_return_minus_value() -> None:
    rewards, values = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.3, 0.1, -0.4])
    got = ppo.gae(rewards, values, 1.0, 1.0)
    torch.testing.assert_close(got, torch.tensor([1.5, 1.0, 2.0]) - values)


@pytest.mark.parametrize(("estimator", "expected"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) - 0.5)])
def test_kl_estimators(estimator: str, expected: float) -> None:
    got = ppo.kl_estimate(torch.tensor([-1.0]), torch.tensor([-1.5]), estimator)
    assert got.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 0), (0.19, 0), (0.21, 1), (0.49, 1), (0.51, 2), (0.9999999, 2)])
def test_draw_is_the_inverse_cdf(uniform: float, token: int) -> None:
    assert ppo.draw(torch.tensor([0.2, 0.3, 0.5]).log(), uniform) == token


def test_draw_never_takes_a_token_of_probability_zero() -> None:
    logits = torch.tensor([-math.inf, 0.0, -math.inf])
    assert [ppo.draw(logits, u) for u in (0.0, 0.5, 0.999)] == [1, 1, 1]


def test_scores_are_clipped_before_the_penalty() -> None:
    settings = ppo.Settings(eos_id=EOS, max_new_tokens=4, score_clip=2.0, missing_eos_penalty=1.0)
    assert ppo.shape_score(5.0, True, settings) == 2.0
    assert ppo.shape_score(5.0, False, settings) == 1.0
    assert ppo.shape_score(-5.0, True, settings) == -2.0


def test_rewards_are_the_penalty_everywhere_and_the_score_at_the_end() -> None:
    got = ppo.token_rewards(torch.tensor([1.0, -2.0, 4.0]), 3.0, 0.1)
    torch.testing.assert_close(got, torch.tensor([-0.1, 0.2, 2.6]))


def test_whitening_is_over_all_rows_together() -> None:
    """Values 1, 2, 3, 6: mean 3, unbiased variance 14/3."""
    first, second = ppo.whiten([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])])
    scale = math.sqrt(14 / 3)
    torch.testing.assert_close(torch.cat([first, second]), torch.tensor([-2.0, -1.0, 0.0, 3.0]) / scale)
    (kept,) = ppo.whiten([torch.tensor([1.0, 2.0, 3.0, 6.0])], shift_mean=False)
    assert kept.mean().item() == pytest.approx(3.0, abs=1e-6)


def test_advantages_whitened_and_returns_not() -> None:
    samples = [sample([(0, 1.0), (0, 2.0)], raw_score=4.0), sample([(0, 3.0)], raw_score=1.0)]
    ppo.add_advantages(samples, 0.05, SETTINGS)
    # No KL: rewards are 0, 4 and 1. A = [4 * 0.95 + 0.05 * 2 - 1, 4 - 2], [1 - 3] = [2.9, 2], [-2].
    torch.testing.assert_close(samples[0].returns, torch.tensor([3.9, 4.0]))
    torch.testing.assert_close(samples[1].returns, torch.tensor([1.0]))
    every = torch.cat([s.advantages for s in samples])
    assert every.mean().item() == pytest.approx(0, abs=1e-6)
    assert every.std().item() == pytest.approx(1, abs=1e-6)


def test_a_cut_response_bootstraps_only_when_told() -> None:
    """The value behind the end stands in for the score: 0.9 * 5 - 1, not 2 + 0.9 * 5 - 1."""
    settings = ppo.Settings(eos_id=EOS, max_new_tokens=4, truncated="bootstrap", gamma=0.9, whiten=False)
    cut = sample([(0, 1.0)], ended=False, value_after=5.0, raw_score=2.0)
    ended = sample([(0, 1.0)], ended=True, value_after=5.0, raw_score=2.0)
    ppo.add_advantages([cut, ended], 0.0, settings)
    assert cut.advantages.item() == pytest.approx(0.9 * 5 - 1)
    assert ended.advantages.item() == pytest.approx(2 - 1)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.1, 2.0, -2.2), (1.5, 2.0, -2.4), (0.5, 2.0, -1.0), (0.5, -2.0, 1.6), (1.5, -2.0, 3.0)],
)
def test_policy_loss_by_hand(ratio: float, advantage: float, expected: float) -> None:
    loss, _, _ = ppo.policy_terms(torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([advantage]), SETTINGS)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_dual_clip_bounds_the_loss_of_bad_tokens() -> None:
    settings = ppo.Settings(eos_id=EOS, max_new_tokens=4, dual_clip=3.0)
    logprobs, advantages = torch.tensor([math.log(10.0), math.log(10.0)]), torch.tensor([-1.0, 1.0])
    loss, _, _ = ppo.policy_terms(logprobs, torch.zeros(2), advantages, settings)
    torch.testing.assert_close(loss, torch.tensor([3.0, -1.2]))


@pytest.mark.parametrize(
    ("value", "old", "target", "expected"),
    [
        (1.1, 1.0, 2.0, 0.5 * 0.81),  # within the clip: both the same
        (1.5, 1.0, 2.0, 0.5 * 0.64),  # moved towards the target beyond the clip: no reward for it
        (0.5, 1.0, 2.0, 0.5 * 2.25),  # moved away: the free error is the larger
    ],
)
def test_value_loss_by_hand(value: float, old: float, target: float, expected: float) -> None:
    loss, _ = ppo.value_terms(torch.tensor([value]), torch.tensor([old]), torch.tensor([target]), 0.2)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_kl_controller() -> None:
    settings = ppo.Settings(eos_id=EOS, max_new_tokens=4, kl_target=6.0, kl_horizon=100)
    assert ppo.adapted_kl_coef(0.1, 6.6, 10, settings) == pytest.approx(0.1 * (1 + 0.1 * 10 / 100))
    assert ppo.adapted_kl_coef(0.1, 60.0, 10, settings) == pytest.approx(0.1 * (1 + 0.2 * 10 / 100))
    assert ppo.adapted_kl_coef(0.1, 60.0, 10, SETTINGS) == 0.1


# --- two whole iterations -----------------------------------------------------------------------


def tiny_config(**changes: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=EOS, pad_token_id=2, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def models() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    policy = LlamaForCausalLM(tiny_config())
    for parameter in policy.parameters():  # away from uniform, or every test of sampling would pass
        parameter.data *= 4 if parameter.dim() > 1 else 1
    return {
        "policy": policy,
        "reference": copy.deepcopy(policy),
        "reward": LlamaForSequenceClassification(tiny_config(num_labels=1)),
        "value": LlamaForSequenceClassification(tiny_config(num_labels=1)),
    }


def run(models: dict[str, torch.nn.Module], **changes: Any) -> tuple[list[ppo.Iteration], dict[str, torch.nn.Module]]:
    own = {name: copy.deepcopy(model) for name, model in models.items()}
    prompts = [[[3, 4, 5], [6, 7], [8], [9, 10, 11, 12]]] * 2
    uniforms = [torch.rand(4, 6, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(2)]
    minibatches = [[[[0, 2], [1, 3]], [[3, 0], [2, 1]]]] * 2
    settings = ppo.Settings(**{**vars(SETTINGS), **changes})
    return ppo.run_ppo(**own, prompts=prompts, uniforms=uniforms, minibatches=minibatches, settings=settings), own


def test_first_step_is_on_policy_and_later_ones_are_not(models: dict[str, torch.nn.Module]) -> None:
    (first, second), trained = run(models)
    assert first.metrics["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert first.steps[0]["val/ratio"] == pytest.approx(1, abs=1e-6)
    assert first.steps[0]["policy/clipfrac_avg"] == 0
    assert first.steps[0]["policy/approxkl_avg"] == pytest.approx(0, abs=1e-10)
    assert abs(first.steps[1]["val/ratio"] - 1) > 1e-5
    assert abs(second.metrics["objective/kl"]) > 1e-5
    assert len(first.steps) == 4
    for name in ("policy", "value"):
        assert any((a != b).any() for a, b in zip(models[name].parameters(), trained[name].parameters(), strict=True))
    for name in ("reference", "reward"):
        assert all((a == b).all() for a, b in zip(models[name].parameters(), trained[name].parameters(), strict=True))


def test_the_same_numbers_give_the_same_run(models: dict[str, torch.nn.Module]) -> None:
    (_, one), _ = run(models)
    (_, two), _ = run(models)
    assert [s.response for s in one.samples] == [s.response for s in two.samples]
    assert one.metrics == two.metrics


def test_responses_end_with_eos_or_at_the_limit(models: dict[str, torch.nn.Module]) -> None:
    (first, second), _ = run(models)
    for sample_ in first.samples + second.samples:
        assert EOS not in sample_.response[:-1]
        assert sample_.ended == (sample_.response[-1] == EOS)
        assert sample_.ended or len(sample_.response) == SETTINGS.max_new_tokens
        columns: list[Tensor] = [sample_.old_logprobs, sample_.values, sample_.rewards, sample_.returns]
        assert {len(column) for column in columns} == {len(sample_.response)}


def test_logprobs_are_of_the_distribution_sampled_from(models: dict[str, torch.nn.Module]) -> None:
    """At a low temperature the drawn tokens are almost certain ones."""
    (first, _), _ = run(models, temperature=0.01)
    (warm, _), _ = run(models)
    cold = torch.cat([s.old_logprobs for s in first.samples]).mean()
    assert cold > torch.cat([s.old_logprobs for s in warm.samples]).mean()
    assert cold > -0.1


def test_score_and_values_are_read_where_they_should_be(models: dict[str, torch.nn.Module]) -> None:
    (first, _), _ = run(models)
    one = first.samples[1]
    tokens = torch.tensor([[*one.prompt, *one.response]])
    with torch.no_grad():
        # Hugging Face's own pooling reads the last token that is not padding.
        assert one.raw_score == pytest.approx(models["reward"](input_ids=tokens).logits.item(), abs=1e-6)
        before = models["value"](input_ids=tokens[:, : len(one.prompt)]).logits.item()
    assert one.values[0].item() == pytest.approx(before, abs=1e-6)
