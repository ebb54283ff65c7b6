from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from distft.algorithms.losses.base import LossBatch
from distft.algorithms.losses.dpo import PAIR_LOSSES, Dpo
from distft.config.algorithms.dpo import Dpo as Keys

# Response tokens of chosen, rejected, chosen, ...; sequences lie in rows of WIDTH with a prompt of 2.
LENGTHS, PROMPT, WIDTH = [4, 6, 9, 1, 3, 3], 2, 11
SMOOTHED = {"robust": 0.2, "exo_pair": 0.1}


def _tokens(seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [-scale * torch.rand(length, generator=generator) for length in LENGTHS]


def _flat(
    loss: Dpo, logprobs: list[Tensor], reference: list[Tensor], means: list[Tensor] | None = None
) -> tuple[Tensor, dict[str, float]]:
    lengths = torch.tensor([len(row) for row in logprobs])
    segments = torch.arange(len(lengths)).repeat_interleave(lengths)
    real = torch.ones(len(lengths), dtype=torch.bool)
    batch = LossBatch(torch.ones(len(segments)).bool(), segments, real, {"ref_logprobs": torch.cat(reference)})
    denominators = {"tokens": float(len(segments)), "sequences": float(len(lengths)), "units": len(lengths) / 2}
    outputs = {"logprobs": torch.cat(logprobs)} | ({"logits_mean": torch.cat(means)} if means else {})
    result = loss(outputs, batch, denominators)
    metrics = {name: m.value.item() / denominators.get(m.reduce, 1.0) for name, m in result.metrics.items()}
    return result.loss, loss.finalize(metrics)


def _padded(rows: list[Tensor]) -> Tensor:
    """[2 x pairs, WIDTH - 1], all chosen and then all rejected, as TRL lays them out after the shift."""
    ordered = rows[0::2] + rows[1::2]
    pad = torch.nn.functional.pad
    return torch.stack([pad(row, (PROMPT - 1, WIDTH - PROMPT - len(row))) for row in ordered])


def _trl(loss: Dpo, logprobs: list[Tensor], reference: list[Tensor], means: list[Tensor]) -> tuple[Tensor, Any]:
    """DPOTrainer._compute_loss itself, on a model that answers with given log-probabilities."""
    from trl import DPOTrainer

    completion = torch.nn.functional.pad(_padded([torch.ones(n) for n in LENGTHS]), (1, 0)).long()
    table = _padded(logprobs)
    answer = SimpleNamespace(
        log_probs=table, entropy=table.detach(), mean_logits=_padded(means), is_top1=torch.zeros_like(table).bool()
    )
    sums = _padded(reference).sum(1)
    inputs = {
        "input_ids": torch.zeros_like(completion),
        "attention_mask": torch.ones_like(completion),
        "completion_mask": completion,
        "ref_chosen_logps": sums[: len(sums) // 2],
        "ref_rejected_logps": sums[len(sums) // 2 :],
    }
    logged: dict[str, list[float]] = defaultdict(list)
    trainer: Any = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(discopop_tau=loss.discopop_tau),
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss.loss],
        loss_weights=[1.0],
        beta=loss.beta,
        label_smoothing=loss.label_smoothing,
        use_weighting=False,
        _metrics={"eval": logged},
        _total_train_tokens=0,
    )
    return DPOTrainer._compute_loss(trainer, lambda **_: answer, inputs, False), logged


@pytest.mark.parametrize("keys", [{"beta": 0.1}, {"beta": 2.0}, {"beta": 0.5, "discopop_tau": 0.7}])
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_parity_with_trl(name: str, keys: dict[str, float]) -> None:
    """From the recipe's keys on, by TRL's names."""
    recipe = Keys.model_validate({"kind": "dpo", "loss": name, "label_smoothing": SMOOTHED.get(name, 0.0), **keys})
    loss = Dpo(**recipe.loss_of("policy")[1])
    assert loss.discopop_tau == keys.get("discopop_tau", 0.05)
    ours, theirs = ([row.requires_grad_() for row in _tokens(0)] for _ in range(2))
    reference, means = _tokens(1), _tokens(2, scale=-5)
    value, metrics = _flat(loss, ours, reference, means)
    expected, logged = _trl(loss, theirs, reference, means)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    for our_row, their_row in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_row.grad, their_row.grad, rtol=1e-5, atol=1e-7)
    assert sum(row.grad.abs().sum().item() for row in ours if row.grad is not None) > 1e-3
    names = [f"{kind}/{which}" for kind in ("rewards", "logps", "logits") for which in ("chosen", "rejected")]
    names += ["rewards/accuracies", "rewards/margins"]
    assert metrics == pytest.approx({name: logged[name][0] for name in names}, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_an_untrained_policy_has_loss_ln_2_exactly(smoothing: float) -> None:
    value, metrics = _flat(Dpo(label_smoothing=smoothing), _tokens(0), _tokens(0))
    assert value.item() == pytest.approx(math.log(2), abs=1e-7)
    assert metrics["rewards/accuracies"] == 0.0
    assert metrics["rewards/margins"] == 0.0


def test_label_smoothing_mixes_the_two_orders() -> None:
    straight, _ = _flat(Dpo(beta=1.0), _tokens(0), _tokens(1))
    swap = [1, 0, 3, 2, 5, 4]
    swapped, _ = _flat(Dpo(beta=1.0), [_tokens(0)[i] for i in swap], [_tokens(1)[i] for i in swap])
    smoothed, _ = _flat(Dpo(beta=1.0, label_smoothing=0.3), _tokens(0), _tokens(1))
    torch.testing.assert_close(smoothed, 0.7 * straight + 0.3 * swapped)


def test_rpo_adds_the_length_normalised_nll_of_chosen() -> None:
    plain, _ = _flat(Dpo(), _tokens(0), _tokens(1))
    with_nll, metrics = _flat(Dpo(rpo_alpha=0.5), _tokens(0), _tokens(1))
    nll = -sum(row.mean().item() for row in _tokens(0)[0::2]) / 3
    assert metrics["nll_loss"] == pytest.approx(nll, rel=1e-6)
    assert (with_nll - plain).item() == pytest.approx(0.5 * nll, rel=1e-5)


def test_ipo_is_per_token() -> None:
    """Repeating every token leaves the length-normalised log-ratios, so the loss, as they were."""
    logprobs, reference = _tokens(0), _tokens(1)
    once, _ = _flat(Dpo(loss="ipo"), logprobs, reference)
    twice, _ = _flat(Dpo(loss="ipo"), [row.repeat(2) for row in logprobs], [row.repeat(2) for row in reference])
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_extreme_log_ratios_give_finite_gradients(name: str) -> None:
    for sign in (1.0, -1.0):
        rows = [torch.tensor([-1e4], requires_grad=True), torch.tensor([0.0], requires_grad=True)]
        ordered = rows if sign > 0 else rows[::-1]
        loss = Dpo(loss=name, label_smoothing=SMOOTHED.get(name, 0.0))
        value, _ = _flat(loss, ordered, [torch.zeros(1), torch.zeros(1)])
        value.backward()
        assert math.isfinite(value.item())
        assert all(row.grad is not None and row.grad.isfinite().all() for row in rows)


def test_missing_reference_column_is_named() -> None:
    batch = LossBatch(torch.ones(2).bool(), torch.arange(2), torch.ones(2).bool(), {"values": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"needs the column 'ref_logprobs'; the experience has \['values'\]"):
        Dpo()({"logprobs": torch.zeros(2)}, batch, {"units": 1.0})


def test_real_sequences_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="3 sequences are not pairs"):
        _flat(Dpo(), _tokens(0)[:3], _tokens(1)[:3])
