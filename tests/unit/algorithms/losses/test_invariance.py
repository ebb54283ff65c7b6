"""For every loss: the split into micro-batches, the order of samples, dummies and masked NaN change nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from distft.algorithms.losses.base import Loss, LossBatch, Metric
from distft.algorithms.losses.build import build_loss
from distft.algorithms.losses.dpo import PAIR_LOSSES
from distft.common.addresses import found_at
from tests.harness.loss_cases import LOSSES

WIDE = ("logits", "embeddings")  # outputs of two numbers each
NAN = float("nan")
DUMMY = -1
# Columns with a value for each sequence, not for each token.
DENSE = (
    "label", "baseline", "margin", "unit", "rank", "ptx", "gradient", "nll", "place", "cosine", "cosine_others",
)  # fmt: skip
CASES: list[tuple[str, dict[str, Any]]] = [
    ("sft", {}),
    ("reward", {}),
    ("reward", {"center_coef": 0.1, "margin": 0.5}),
    ("rankings", {}),
    ("rankings", {"center_coef": 0.1, "margin": 0.5}),
    *(("dpo", {"loss": name, "label_smoothing": 0.1 * (name == "exo_pair")}) for name in PAIR_LOSSES),
    ("dpo", {"label_smoothing": 0.1, "rpo_alpha": 1.0}),
    ("dpo", {"loss": "robust", "label_smoothing": 0.1}),
    ("ppo_policy", {}),
    ("ppo_policy", {"clip_high": 0.28, "dual_clip": 1.5, "entropy_coef": 0.01}),
    ("ppo_value", {}),
    ("ppo_ptx", {"ptx_coef": 2.0}),
    ("online_dpo", {"beta": 0.3}),
    ("raft", {}),
    ("orpo", {"beta": 0.3}),
    ("simpo", {"gamma": 0.5}),
    ("ppo_value", {"value_clip": None}),
    ("grpo", {"kl_coef": 0.1}),
    ("grpo", {"average": "tokens", "clip_high": 0.28, "entropy_coef": 0.01}),
    ("grpo", {"average": "constant", "constant_length": 7}),
    ("dapo", {"average": "tokens", "clip_high": 0.28}),
    ("gspo", {"ratio": "sequences", "clip_low": 0.03, "clip_high": 0.04}),
    ("cispo", {"surrogate": "weighted", "average": "tokens", "clip_high": 0.5}),
    ("reinforce_pp", {"average": "tokens", "kl_coef": 0.1, "kl_estimator": "k2"}),
    ("cpo", {"label_smoothing": 0.1}),
    ("rloo", {}),
    ("kto", {"undesirable_weight": 1.5}),
    ("pretrain", {}),
    ("mlm", {}),
    ("span", {}),
    ("distill", {}),
    ("contrastive", {}),
    ("process_reward", {}),
    ("classification", {"labels": ("no", "yes"), "class_weights": {"yes": 3.0}}),
]


@dataclass
class Unit:
    """Two sequences (a pair for the losses of pairs), of rankings more: per sequence a mask, columns and outputs."""

    masks: list[Tensor]
    columns: list[dict[str, Tensor]]
    outputs: list[dict[str, Tensor]]


def _unit(loss: Loss, number: int, lengths: Sequence[int], generator: torch.Generator) -> Unit:
    masks, columns, outputs = [], [], []
    for place, length in enumerate(lengths):
        # Every third token is an observation; the sequence of one token has none to train on.
        mask = torch.arange(length) % 3 != 0
        names = (*loss.columns, *loss.optional_columns)
        made = {name: torch.rand(length, generator=generator) - 0.7 for name in names if name not in DENSE}
        dense = {name: torch.rand(1, generator=generator) for name in names if name in DENSE}
        told = {"unit": number, "rank": min(place, 2), "ptx": number % 2}  # the last of four is tied with the third
        dense |= {name: torch.tensor([float(value)]) for name, value in told.items() if name in names}
        columns.append({name: torch.where(mask, value, NAN) for name, value in made.items()} | dense)
        shape = length if loss.reads == "tokens" else 1
        values = {name: torch.rand(shape, generator=generator) - 0.7 for name in loss.outputs if name not in WIDE}
        values |= {name: torch.rand(shape, 2, generator=generator) for name in WIDE if name in loss.outputs}
        if loss.reads == "tokens":
            values = {name: torch.where(mask, value, NAN) for name, value in values.items()}
        masks.append(mask)
        outputs.append({name: value.requires_grad_() for name, value in values.items()})
    return Unit(masks, columns, outputs)


def _world(loss: Loss) -> list[Unit]:
    generator = torch.Generator().manual_seed(5)
    lengths: tuple[tuple[int, ...], ...] = ((7, 3), (1, 5), (12, 12), (4, 9), (30, 2), (6, 1))
    if "rank" in loss.columns:
        lengths = ((7, 3), (1, 5, 3, 2), (12, 12, 1), (4, 9), (30, 2, 2, 4), (6, 1, 2))
    return [_unit(loss, number, row, generator) for number, row in enumerate(lengths)]


def _micro_batch(loss: Loss, world: list[Unit], units: Sequence[int]) -> tuple[LossBatch, dict[str, Tensor]]:
    masks: list[Tensor] = []
    real: list[bool] = []
    columns: dict[str, list[Tensor]] = {name: [] for name in (*loss.columns, *loss.optional_columns)}
    outputs: dict[str, list[Tensor]] = {name: [] for name in loss.outputs}
    for index in units:
        unit = world[max(index, 0)]
        for mask, unit_columns, unit_outputs in zip(unit.masks, unit.columns, unit.outputs, strict=True):
            masks.append(mask)
            real.append(index != DUMMY)
            for name, parts in columns.items():
                parts.append(unit_columns[name] if index != DUMMY else torch.full_like(unit_columns[name], NAN))
            for name, outs in outputs.items():
                outs.append(unit_outputs[name])
    segments = torch.repeat_interleave(torch.arange(len(masks)), torch.tensor([len(mask) for mask in masks]))
    batch = LossBatch(torch.cat(masks), segments, torch.tensor(real), {k: torch.cat(v) for k, v in columns.items()})
    return batch, {name: torch.cat(parts) for name, parts in outputs.items()}


def _denominators(world: list[Unit]) -> dict[str, float]:
    tokens = sum(int(mask.sum()) for unit in world for mask in unit.masks)
    return {
        "tokens": float(tokens),
        "sequences": float(sum(len(unit.masks) for unit in world)),
        "units": float(len(world)),
        "ptx_tokens": float(tokens),
    }


def _reduced(parts: list[dict[str, Metric]], denominators: dict[str, float]) -> dict[str, float]:
    reduced: dict[str, float] = {}
    for name in {name for part in parts for name in part}:
        metrics = [part[name] for part in parts if name in part]
        values, reduce = torch.stack([metric.value for metric in metrics]), metrics[0].reduce
        extreme = {"min": values.amin(), "max": values.amax()}.get(reduce)
        reduced[name] = (values.sum() / denominators.get(reduce, 1.0) if extreme is None else extreme).item()
    return reduced


def _run(loss: Loss, split: Sequence[Sequence[int]]) -> tuple[float, list[Tensor], dict[str, float]]:
    world = _world(loss)
    denominators = _denominators(world)
    value, parts = 0.0, []
    for units in split:
        batch, outputs = _micro_batch(loss, world, units)
        result = loss(outputs, batch, denominators)
        result.loss.backward()
        value += result.loss.item()
        parts.append(result.metrics)
    leaves = [tensor for unit in world for outs in unit.outputs for tensor in outs.values()]
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    return value, gradients, loss.finalize(_reduced(parts, denominators))


def _splits() -> list[list[list[int]]]:
    rng = random.Random(0)
    shuffled = rng.sample(range(6), 6)
    return [
        [[unit] for unit in range(6)],
        [shuffled],
        [shuffled[:4], shuffled[4:]],
        [[DUMMY], [3, 1], [DUMMY], [5, 0, 2], [4]],
        [[2, DUMMY, 5], [0, 1, 3, 4], [DUMMY, DUMMY]],
    ]


@pytest.mark.parametrize(("name", "params"), CASES)
def test_split_order_and_dummies_change_nothing(name: str, params: dict[str, Any]) -> None:
    loss = build_loss(found_at(LOSSES[name]), params)
    value, gradients, metrics = _run(loss, [list(range(6))])
    assert sum(gradient.abs().sum().item() for gradient in gradients) > 1e-3
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert all(abs(metric) < 1e6 for metric in metrics.values()), metrics
    for split in _splits():
        other_value, other_gradients, other_metrics = _run(loss, split)
        assert other_value == pytest.approx(value, rel=1e-6, abs=1e-7)
        assert other_metrics == pytest.approx(metrics, rel=1e-6, abs=1e-7)
        for gradient, other in zip(gradients, other_gradients, strict=True):
            torch.testing.assert_close(other, gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "params"), CASES)
def test_masked_tokens_get_no_gradient(name: str, params: dict[str, Any]) -> None:
    loss = build_loss(found_at(LOSSES[name]), params)
    world = _world(loss)
    batch, outputs = _micro_batch(loss, world, range(6))
    loss(outputs, batch, _denominators(world)).loss.backward()
    if loss.reads == "tokens":
        masked = [tensor.grad[~mask] for unit in world for mask, outs in zip(unit.masks, unit.outputs, strict=True)
                  for tensor in outs.values() if tensor.grad is not None]  # fmt: skip
        assert sum(len(part) for part in masked) > 0
        assert all((part == 0).all() for part in masked)


@pytest.mark.parametrize("num_sequences", [0, 1, 2, 3])
@pytest.mark.parametrize(("name", "params"), CASES)
def test_all_dummies_give_zero_and_a_connected_graph(name: str, params: dict[str, Any], num_sequences: int) -> None:
    loss = build_loss(found_at(LOSSES[name]), params)
    segments = torch.arange(num_sequences).repeat_interleave(2)
    names = (*loss.columns, *loss.optional_columns)
    columns = {name: torch.full((num_sequences if name in DENSE else len(segments),), NAN) for name in names}
    real = torch.zeros(num_sequences, dtype=torch.bool)
    batch = LossBatch(torch.ones_like(segments, dtype=torch.bool), segments, real, columns)
    size = len(segments) if loss.reads == "tokens" else num_sequences
    outputs = {
        output: torch.full((size, 2) if output in WIDE else (size,), 3.0, requires_grad=True) for output in loss.outputs
    }
    result = loss(outputs, batch, {"tokens": 5.0, "sequences": 2.0, "units": 1.0, "ptx_tokens": 3.0})
    result.loss.backward()
    first = outputs[loss.outputs[0]]
    assert result.loss.item() == 0.0
    assert first.grad is not None
    assert (first.grad == 0).all()
    assert all(metric.value.item() in (0.0, float("inf"), -float("inf")) for metric in result.metrics.values())


def test_every_loss_of_the_registry_is_covered() -> None:
    assert {name for name, _ in CASES} == set(LOSSES)
