"""KTO by hand, and against TRL."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult
from distft.algorithms.losses.kto import Kto

LENGTHS = (5, 9, 1, 4, 30, 2)
SIDES = ("chosen", "rejected")
GOOD = (True, False, False, True, True, False)


def result(loss: Kto, logprobs: Tensor, reference: Tensor, good: tuple[bool, ...], baseline: float) -> LossResult:
    """The loss of sequences of ``LENGTHS``, or of one token each."""
    lengths = torch.tensor(LENGTHS if len(logprobs) > len(good) else [1] * len(good))
    segments = torch.repeat_interleave(torch.arange(len(good)), lengths)
    columns = {
        "ref_logprobs": reference, "label": torch.tensor(good).float(), "baseline": torch.full((len(good),), baseline),
    }  # fmt: skip
    batch = LossBatch(
        torch.ones_like(segments, dtype=torch.bool), segments, torch.ones(len(good), dtype=torch.bool), columns
    )
    return loss({"logprobs": logprobs}, batch, {"units": float(len(good))})


def final(loss: Kto, found: LossResult) -> dict[str, float]:
    counts = {"units": float(len(GOOD))}
    return loss.finalize({name: float(m.value) / counts.get(m.reduce, 1.0) for name, m in found.metrics.items()})


def test_two_answers_by_hand() -> None:
    """At log-ratios of 2 ln 3 and 0, a baseline of ln 3 and beta 1, each is on its side by odds of 3."""
    logprobs, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-1.0 - 2 * math.log(3), -2.0])
    loss = Kto(beta=1.0, desirable_weight=2.0, undesirable_weight=0.5)
    found = result(loss, logprobs, reference, (True, False), math.log(3))
    assert float(found.loss) == pytest.approx((2.0 / 4 + 0.5 / 4) / 2)
    assert float(found.metrics["rewards/accuracies"].value) == 2
    wrong = result(loss, logprobs, reference, (False, True), math.log(3))
    assert float(wrong.loss) == pytest.approx((0.5 * 3 / 4 + 2.0 * 3 / 4) / 2)
    assert float(wrong.metrics["rewards/accuracies"].value) == 0


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.7)])
@pytest.mark.parametrize("moved", [0.2, -0.1])
def test_parity_with_trl(weights: tuple[float, float], moved: float) -> None:
    """Loss, gradients and metrics of TRL's own function on random batches, with a divergence, and with one below 0."""
    generator = torch.Generator().manual_seed(3)
    rows = [-3 * torch.rand(2, length, generator=generator) for length in LENGTHS]  # of policy, and of reference
    ours, theirs = (torch.cat([row[0] for row in rows]).requires_grad_() for _ in range(2))
    mismatched = torch.arange(len(rows)) / 10 + moved
    loss = Kto(beta=0.3, desirable_weight=weights[0], undesirable_weight=weights[1])
    baseline = max(0.0, float(mismatched.mean()) - 0.25)
    found = result(loss, ours, torch.cat([row[1] for row in rows]), GOOD, baseline)
    sums = torch.stack([row[1].sum() for row in rows])
    expected, logged = _trl(theirs, sums, (mismatched, torch.full_like(mismatched, 0.25)), weights)
    torch.testing.assert_close(found.loss, expected, rtol=1e-5, atol=1e-6)
    found.loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)
    got = final(loss, found)
    assert (got["kl"] > 0) is (moved > 0)
    for name in ("kl", "rewards/margins", *(f"{kind}/{side}" for kind in ("rewards", "logps") for side in SIDES)):
        assert got[name] == pytest.approx(logged[name], rel=1e-5), name


def _trl(
    policy: Tensor, reference: Tensor, mismatched: tuple[Tensor, Tensor], weights: tuple[float, float]
) -> tuple[Tensor, dict[str, float]]:
    """``KTOTrainer``'s own loss, of a policy that is a table here, and what it logs. ``reference``: sums of the rows;
    ``mismatched``: of policy and reference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl import KTOTrainer
    said, mask = (
        torch.stack([F.pad(part, (0, max(LENGTHS) - len(part))) for part in parts.split(LENGTHS)])
        for parts in (policy, torch.ones(sum(LENGTHS)))
    )
    mask = F.pad(mask, (1, 0))
    logged: dict[str, list[float]] = defaultdict(list)

    def model(**_: Any) -> Any:
        return SimpleNamespace(log_probs=said, entropy=said.detach(), mean_logits=said.detach())

    model.training = True  # type: ignore[attr-defined]
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda value: value), _metrics={"train": logged},
        model=model, _compute_kl_logps=lambda *_: mismatched[0], precompute_ref_logps=True, beta=0.3,
        calculate_KL=True, loss_type="kto", desirable_weight=weights[0], undesirable_weight=weights[1], _tp_size=1,
        aux_loss_enabled=False, _total_train_tokens=0,
    )  # fmt: skip
    inputs = {
        "input_ids": mask.long(), "attention_mask": mask, "completion_mask": mask, "label": torch.tensor(GOOD),
        "ref_logps": reference, "ref_KL_logps": mismatched[1],
    }  # fmt: skip
    loss: Tensor = KTOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)
    return loss, {name: values[-1] for name, values in logged.items() if values}


def test_of_a_sort_that_is_not_there_there_is_no_mean() -> None:
    loss = Kto()
    found = result(loss, torch.tensor([-1.0, -2.0]), torch.zeros(2), (True, True), 0.0)
    names = set(final(loss, found))
    assert names == {"kl", "rewards/accuracies", "rewards/chosen", "logps/chosen"}


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"desirable_weight": -1.0}, {"undesirable_weight": 0.0}])
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        Kto(**wrong)
