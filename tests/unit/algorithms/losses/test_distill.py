"""Distillation's loss by hand; its divergences are held against TRL in ``test_divergences``."""

from __future__ import annotations

import math

import pytest
import torch

from distft.algorithms.losses.base import LossBatch, MeasuringLoss
from distft.algorithms.losses.distill import Distill
from distft.algorithms.losses.sft import Sft
from distft.algorithms.measured import measured

LN2 = math.log(2)


def batch(*learned: bool, **columns: torch.Tensor) -> LossBatch:
    ones = torch.tensor([True])
    return LossBatch(torch.tensor(learned), torch.zeros(len(learned), dtype=torch.int64), ones, columns)


def test_two_tokens_by_hand() -> None:
    """The teacher says (1/2, 1/4, 1/4) and the student (1/4, 1/4, 1/2): 1/4 ln 2 a token over the whole vocabulary. Of
    the likeliest token by name the student has 1/4 and the teacher 1/2: 1/2 ln 2 + 1/2 ln 2/3."""
    student = torch.tensor([[0.25, 0.25, 0.5]] * 3).log()
    whole = torch.tensor([[0.5, 0.25, 0.25]] * 3).log()
    named = {
        "teacher_logprobs": torch.tensor([[0.5, 0.5]] * 3).log(),
        "teacher_ids": torch.zeros(3, 1, dtype=torch.long),
    }
    loss, targets = Distill(), torch.tensor([2, 2, 0])
    for columns, expected, rest in (
        ({"teacher_logprobs": whole}, 0.25 * LN2, 0.0),
        (named, 0.5 * LN2 + 0.5 * math.log(2 / 3), 0.5),
    ):
        given = batch(True, True, False, **columns)
        read = measured(student, targets, loss.measure(given, 3))
        found = loss(read, given, {"tokens": 4.0, "sequences": 1.0, "units": 1.0})
        assert float(found.loss) == pytest.approx(2 * expected / 4, rel=1e-6), "4 tokens over all ranks, 2 of them here"
        assert float(found.metrics["nll_loss"].value) == pytest.approx(2 * LN2, rel=1e-6)
        assert float(found.metrics["teacher_rest"].value) == pytest.approx(2 * rest, rel=1e-6)


def test_it_measures_and_others_do_not() -> None:
    assert isinstance(Distill(), MeasuringLoss)
    assert not isinstance(Sft(), MeasuringLoss)


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"beta": 1.0}, {"temperature": 0.0}, {"divergence": "chi"}])
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must|unknown"):
        Distill(**wrong)  # type: ignore[arg-type]
