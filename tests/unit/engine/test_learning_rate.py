"""The schedules are Hugging Face's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from distft.config.optimizers.adamw import AdamW
from distft.engine.learning_rate import learning_rate

PEAK, TOTAL = 3e-4, 20


def theirs(make: Callable[..., Any], **options: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    schedule = make(optimizer, **options)
    found = []
    for _ in range(TOTAL):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def ours(**options: Any) -> list[float]:
    optimizer = AdamW(learning_rate=PEAK, **options)
    return [learning_rate(optimizer, step, TOTAL) for step in range(TOTAL)]


@pytest.mark.parametrize("warmup", [0, 1, 6])
def test_constant_linear_and_cosine(warmup: int) -> None:
    steps = {"num_warmup_steps": warmup, "num_training_steps": TOTAL}
    constant = theirs(get_constant_schedule_with_warmup, num_warmup_steps=warmup)
    assert ours(schedule="constant", warmup_steps=warmup) == pytest.approx(constant)
    assert ours(schedule="linear", warmup_steps=warmup) == pytest.approx(
        theirs(get_linear_schedule_with_warmup, **steps)
    )
    assert ours(schedule="cosine", warmup_steps=warmup) == pytest.approx(
        theirs(get_cosine_schedule_with_warmup, **steps)
    )
    assert ours(schedule="cosine", warmup_steps=warmup, min_ratio=0.1) == pytest.approx(
        theirs(get_cosine_with_min_lr_schedule_with_warmup, **steps, min_lr_rate=0.1)
    )


def test_linear_ends_at_its_lowest_and_stays_there() -> None:
    optimizer = AdamW(learning_rate=PEAK, schedule="linear", min_ratio=0.25)
    assert learning_rate(optimizer, TOTAL, TOTAL) == pytest.approx(0.25 * PEAK)
    assert learning_rate(optimizer, TOTAL + 5, TOTAL) == pytest.approx(0.25 * PEAK)
    assert learning_rate(optimizer, TOTAL // 2, TOTAL) == pytest.approx(0.625 * PEAK)
