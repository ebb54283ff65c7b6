"""What losses of pairs share."""

from __future__ import annotations

import pytest
import torch

from distft.algorithms.losses.base import Loss
from distft.algorithms.losses.orpo import Orpo
from distft.algorithms.losses.simpo import Simpo
from tests.unit.algorithms.losses.pair_rows import random_rows, result


@pytest.mark.parametrize("loss", [Orpo(), Simpo()])
def test_a_pair_with_a_side_without_tokens_counts_for_nothing(loss: Loss) -> None:
    rows = random_rows()
    half = [*rows[:2], rows[2].requires_grad_(), rows[3][:0]]
    without, alone = result(loss, half), result(loss, rows[:2])
    torch.testing.assert_close(without.loss * 2, alone.loss)  # the denominator counts both pairs
    without.loss.backward()
    assert rows[2].grad is not None
    assert not rows[2].grad.any()
    for name, metric in alone.metrics.items():
        assert float(without.metrics[name].value) == pytest.approx(float(metric.value))
