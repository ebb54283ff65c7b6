"""The loss of the methods without a value model by hand, and TRL's own on random batches."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from distft.algorithms.losses.base import Loss, LossBatch
from distft.algorithms.losses.clipped import ClippedPolicy
from distft.config.find_method import method_of

LENGTHS = [3, 1]


def run(loss: Loss, logprobs: Tensor, lengths: list[int], **columns: Tensor) -> tuple[Tensor, dict[str, float]]:
    segments = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    batch = LossBatch(torch.ones(len(segments)).bool(), segments, torch.ones(len(lengths)).bool(), columns)
    denominators = {"tokens": float(len(segments)), "sequences": float(len(lengths)), "units": float(len(lengths))}
    result = loss({"logprobs": logprobs}, batch, denominators)
    metrics = {name: m.value.item() / denominators.get(m.reduce, 1.0) for name, m in result.metrics.items()}
    return result.loss, loss.finalize(metrics)


COLUMNS = {"old_logprobs": torch.zeros(4), "advantages": torch.tensor([1.0, 1.0, 1.0, -1.0])}
RATIOS = [1.5, 0.5, 1.0, 0.5]  # clipped terms: -1.2, -0.5, -1.0 of the first response, 0.8 of the second


@pytest.mark.parametrize(
    ("average", "expected"),
    [
        ({}, (-(1.2 + 0.5 + 1.0) / 3 + 0.8) / 2),
        ({"average": "tokens"}, (-1.2 - 0.5 - 1.0 + 0.8) / 4),
        ({"average": "constant", "constant_length": 10}, (-1.2 - 0.5 - 1.0 + 0.8) / 20),
    ],
)
def test_the_three_averages_by_hand(average: dict[str, Any], expected: float) -> None:
    loss, metrics = run(ClippedPolicy(**average), torch.tensor(RATIOS).log(), LENGTHS, **COLUMNS)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert metrics["clip_ratio/region_mean"] == 0.5


def test_the_kl_is_a_term_of_the_loss_and_pulls_towards_the_reference() -> None:
    """k3 at log pi - log pi_ref = 1: 1/e; its gradient 1 - 1/e."""
    logprobs = torch.zeros(1, requires_grad=True)
    columns = {"old_logprobs": torch.zeros(1), "advantages": torch.zeros(1), "ref_logprobs": torch.tensor([-1.0])}
    loss, metrics = run(ClippedPolicy(kl_coef=0.5), logprobs, [1], **columns)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 / math.e, rel=1e-5)
    assert metrics["kl"] == pytest.approx(1 / math.e, rel=1e-5)
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(0.5 * (1 - 1 / math.e), rel=1e-5)
    assert ClippedPolicy().columns == ("advantages", "old_logprobs"), "no reference where it weighs nothing"


def test_the_ratio_of_a_response_is_the_geometric_mean_of_its_tokens() -> None:
    """(1.5 x 0.5 x 1)^(1/3) = 0.9086 is inside the clip though 1.5 and 0.5 are not; 0.5 alone is clipped to 0.8."""
    loss, metrics = run(ClippedPolicy(ratio="sequences"), torch.tensor(RATIOS).log(), LENGTHS, **COLUMNS)
    assert loss.item() == pytest.approx((-(0.75 ** (1 / 3)) + 0.8) / 2, rel=1e-6)
    assert (metrics["clip_ratio/low_mean"], metrics["clip_ratio/high_mean"]) == (0.5, 0.0)


def test_a_weighted_token_keeps_its_gradient_beyond_the_bound() -> None:
    """-w A log pi: weights 1.2 (of 1.5), 0.5, 1, 0.5, which are constants: the gradient is -w A over four tokens."""
    logprobs = torch.tensor(RATIOS).log().requires_grad_()
    loss, metrics = run(ClippedPolicy(surrogate="weighted", average="tokens"), logprobs, LENGTHS, **COLUMNS)
    loss.backward()
    expected = -1.2 * math.log(1.5) - 0.5 * math.log(0.5) + 0.5 * math.log(0.5)
    assert loss.item() == pytest.approx(expected / 4, rel=1e-6)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.3, -0.125, -0.25, 0.125])
    assert metrics["clip_ratio/high_mean"] == metrics["clip_ratio/region_mean"] == 0.25


def test_the_kl_of_reinforce_pp_is_k2() -> None:
    """Half the square of two nats."""
    columns = {"old_logprobs": torch.zeros(1), "advantages": torch.zeros(1), "ref_logprobs": torch.tensor([-2.0])}
    loss, metrics = run(ClippedPolicy(kl_coef=0.5, kl_estimator="k2"), torch.zeros(1), [1], **columns)
    assert (loss.item(), metrics["kl"]) == (1.0, 2.0)


def test_what_does_not_go_together_is_refused() -> None:
    for wrong in (
        {"average": "constant"},
        {"constant_length": 9},
        {"clip_low": 0.0},
        {"average": "mean"},
        {"ratio": "all"},
    ):
        with pytest.raises(ValueError, match="must be|goes with"):
            ClippedPolicy(**wrong)


def trls(loss_type: str, beta: float, ours: ClippedPolicy, inputs: dict[str, Tensor], logprobs: Tensor) -> Tensor:
    """TRL's own ``GRPOTrainer._compute_loss`` over log-probs that are given. Its CISPO takes the bound itself, not how
    far above 1 it is."""
    from trl import GRPOTrainer

    gathering = SimpleNamespace(
        reduce=lambda value, **_: value, gather=lambda value: value, num_processes=1, sync_gradients=True
    )
    settings: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, _entropy_bonus_enabled=False,
        importance_sampling_level=ours.ratio.removesuffix("s"), beta=beta, loss_type=loss_type,
        epsilon_low=ours.clip_low,
        epsilon_high=(loss_type == "cispo") + (ours.clip_low if ours.clip_high is None else ours.clip_high),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1), use_vllm=False,
        max_completion_length=16, current_gradient_accumulation_steps=1, accelerator=gathering,
        model=SimpleNamespace(training=True), _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    loss: Tensor = GRPOTrainer._compute_loss(settings, settings.model, inputs)
    return loss


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize(
    ("kind", "loss_type", "settings"),
    [
        ("grpo", "grpo", {}),
        ("grpo", "dr_grpo", {"average": "constant", "constant_length": 16}),
        ("dapo", "dapo", {}),
        ("gspo", "grpo", {"clip_low": 0.03, "clip_high": 0.04}),
        ("cispo", "cispo", {"clip_high": 0.2}),
    ],
)
def test_parity_with_trl(kind: str, loss_type: str, settings: dict[str, Any], beta: float) -> None:
    """Each kind as its section builds the loss, but for bounds that bind in a batch of six."""
    generator = torch.Generator().manual_seed(11)
    lengths = [5, 9, 1, 12, 7, 3]
    mask = torch.arange(12)[None] < torch.tensor(lengths)[:, None]

    def made(scale: float) -> Tensor:
        return torch.randn(mask.shape, generator=generator) * scale

    logprobs = (made(1.0) - 3).requires_grad_()
    old, reference = logprobs.detach() + made(0.3), logprobs.detach() + made(0.3)
    advantages = torch.randn(len(lengths), generator=generator)
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": torch.ones_like(ids), "completion_ids": ids, "completion_mask": mask.long(),
        "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    _, built = method_of(kind).model_validate({"kind": kind, **settings}).loss_of("policy")
    loss = ClippedPolicy(**{**built, "kl_coef": beta})
    expected = trls(loss_type, beta, loss, inputs, logprobs)
    [theirs] = torch.autograd.grad(expected, logprobs)
    columns = {"old_logprobs": old[mask], "ref_logprobs": reference[mask],
               "advantages": advantages[:, None].expand(mask.shape)[mask]}  # fmt: skip
    got, metrics = run(loss, logprobs[mask], lengths, **columns)
    [ours] = torch.autograd.grad(got, logprobs)
    assert 0 < metrics["clip_ratio/region_mean"] < 1
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
