"""Norms by groups of layers, of what each rank holds, against plain torch's."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from distft.engine.layer_groups import layer_groups
from tests.unit.engine import rank_side
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import VOCABULARY, Setup
from tests.unit.engine.test_engine import ON, STAGES, plain, steps_for

STEP = steps_for(2)[:1]


def plain_norms(folder: str) -> dict[str, float]:
    """By group of layers the norm of the first step's gradients."""
    module = plain(folder, torch.float32)
    ids = torch.cat([rank_side.sequence(sample) for rank in STEP[0] for micro in rank for sample in micro])
    logits = module(input_ids=ids).logits[:, :-1]
    F.cross_entropy(logits.reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1)).backward()
    groups = layer_groups(module)
    return _norms((groups[name], parameter.grad) for name, parameter in module.named_parameters())


def _norms(tensors: Any) -> dict[str, float]:
    squares: dict[str, float] = defaultdict(float)
    for group, tensor in tensors:
        squares[group] += float(torch.as_tensor(tensor).double().square().sum())
    return {group: math.sqrt(square) for group, square in squares.items()}


def together(answers: list[dict[str, float]], stage: int) -> dict[str, float]:
    """The ranks' shares put together; at stage 0 each has all."""
    if stage == 0:
        assert all(answer == answers[0] for answer in answers)
        return answers[0]
    return {name: math.hypot(*(answer[name] for answer in answers)) for name in answers[0]}


@pytest.mark.parametrize(("stage", "world_size"), ON)
def test_shares_of_all_ranks_are_the_norms(groups: dict[int, Group], folder: str, stage: int, world_size: int) -> None:
    """Of gradients before they are clipped, of weights before the first step and after it."""
    setup, step = Setup(folder, stage), steps_for(world_size)[:1]
    answers = groups[world_size].call(rank_side.recorded, setup, step)
    wanted = plain_norms(folder)
    assert math.hypot(*wanted.values()) > 1, "clipping is at work"
    assert together([one["gradients"] for one in answers], stage) == pytest.approx(wanted, rel=1e-4)
    of_weight = answers[0]["groups"]
    for before_or_after in ("before", "after"):
        whole = _norms((of_weight[name], tensor) for name, tensor in answers[0][f"weights_{before_or_after}"].items())
        assert together([one[before_or_after] for one in answers], stage) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_of_what_a_model_in_bfloat16_steps_on(groups: dict[int, Group], folder: str, stage: int) -> None:
    """Float32 weights, of which those that it computes with are copies; gradients of a passed-over step are none."""
    answers = groups[2].call(rank_side.recorded, Setup(folder, stage, "bfloat16"), STEP)
    assert together([one["gradients"] for one in answers], stage) == pytest.approx(plain_norms(folder), rel=0.05)
    assert answers[0]["gradients_again"] is None, "they are taken once"


@pytest.mark.parametrize("stage", [2, 3])
def test_of_an_optimizer_that_lies_on_the_host(groups: dict[int, Group], folder: str, stage: int) -> None:
    answers = groups[2].call(rank_side.recorded, Setup(folder, stage, engine={"offload_optimizer": "cpu"}), STEP)
    assert together([one["gradients"] for one in answers], stage) == pytest.approx(plain_norms(folder), rel=1e-4)
