"""Gates of hard concrete distributions, worked by hand, counted, and beside plain autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from distft.models.adapters.hard_concrete import OPEN, chance_open, drawn_gates, number_open, through_gates


def test_medians_worked_by_hand() -> None:
    """Of logits 0, ln 3, 5 and -5: s is 1/2, 3/4, 0.9933 and 0.0067, stretched by 3 s - 3/2 and cut."""
    gates, slopes = drawn_gates(torch.tensor([0.0, math.log(3), 5.0, -5.0]), None)
    torch.testing.assert_close(gates, torch.tensor([0.0, 0.75, 1.0, 0.0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(slopes[1:], torch.tensor([3 * 3 / 16, 0.0, 0.0]), rtol=0, atol=1e-6)


def test_the_chance_of_being_open_worked_by_hand() -> None:
    """With l = -r it is the sigmoid: of ln 3 it is 3/4, of 0 a half; expected of both are 5/4 open gates, and a third
    and a fourth that are settled, one of them closed, count as they are."""
    logits = torch.tensor([math.log(3), 0.0, 9.0, -9.0], requires_grad=True)
    torch.testing.assert_close(chance_open(logits[:2]), torch.tensor([0.75, 0.5]))
    number = number_open(logits, torch.tensor([OPEN, OPEN, 0.0, 0.4]))
    assert number.item() == pytest.approx(0.75 + 0.5 + 0 + 1)
    (2 * number).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([2 * 3 / 16, 2 / 4, 0.0, 0.0]))


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.0])
def test_gates_are_open_as_often_as_is_said(logit: float) -> None:
    """Of 40,000 that are drawn from one seed, within four deviations; and drawn again they are the same."""
    gates, _ = drawn_gates(torch.full((40_000,), logit), 3)
    chance = float(chance_open(torch.tensor(logit)))
    assert float((gates > 0).float().mean()) == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / 40_000))
    assert 0 < float((gates == 1).float().mean()) < 1
    assert torch.equal(drawn_gates(torch.full((40_000,), logit), 3)[0], gates)
    assert not torch.equal(drawn_gates(torch.full((40_000,), logit), 4)[0], gates)


@pytest.mark.parametrize("seed", [None, 5])
def test_gradients_are_those_of_plain_autograd(seed: int | None) -> None:
    torch.manual_seed(0)
    leaves = [tensor.requires_grad_() for tensor in (torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(20))]
    x, values, gates = leaves
    settled = torch.full((5, 4), OPEN)
    settled[0], settled[1] = 0.0, 0.6
    noise = torch.zeros(20)
    if seed is not None:
        u = torch.rand(5, 4, generator=torch.Generator().manual_seed(seed)).flatten()
        noise = (u / (1 - u)).log()
    z = ((gates + noise).sigmoid() * 3 - 1.5).clamp(0, 1).view(5, 4)
    wanted = functional.linear(x, torch.where(settled < 0, z, settled) * values)
    weights = torch.randn_like(wanted)
    expected = torch.autograd.grad((wanted * weights).sum(), leaves)
    got = through_gates(x, values, gates, settled, seed)
    torch.testing.assert_close(got, wanted)
    for found, one in zip(torch.autograd.grad((got * weights).sum(), leaves), expected, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-5, atol=1e-6)
    assert expected[2][8:].abs().max() > 0
    assert (expected[2][:8] == 0).all()  # those of rows that are settled
