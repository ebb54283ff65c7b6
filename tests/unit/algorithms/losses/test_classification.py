"""The classifier's loss beside torch's, and its scores worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from distft.algorithms.losses.base import LossBatch
from distft.algorithms.losses.classification import Classification, matthews

LABELS = ("cat", "dog", "cow", "eel")
COUNTS = {"tokens": 6.0, "sequences": 6.0, "units": 6.0}


def _run(logits: torch.Tensor, wanted: list[int], loss: Classification) -> tuple[torch.Tensor, dict[str, float]]:
    size = len(wanted)
    batch = LossBatch(
        torch.ones(size, dtype=torch.bool), torch.arange(size), torch.ones(size, dtype=torch.bool),
        {"label": torch.tensor(wanted, dtype=torch.float32)},
    )  # fmt: skip
    result = loss({"logits": logits}, batch, COUNTS)
    reduced = {name: metric.value.item() / COUNTS.get(metric.reduce, 1.0) for name, metric in result.metrics.items()}
    return result.loss, loss.finalize({"loss": result.loss.item(), **reduced})


@pytest.mark.parametrize("weights", [{}, {"dog": 2.5, "eel": 0.5}])
def test_the_loss_is_cross_entropy(weights: dict[str, float]) -> None:
    logits, wanted = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), [0, 1, 3, 3, 2, 1]
    loss, _ = _run(logits, wanted, Classification(LABELS, weights))
    by_label = torch.tensor([weights.get(label, 1.0) for label in LABELS])
    expected = F.cross_entropy(logits, torch.tensor(wanted), weight=by_label, reduction="sum") / 6
    torch.testing.assert_close(loss, expected)


def test_the_scores_by_hand() -> None:
    """Six texts; cat cat dog dog dog cow answered cat dog dog dog cat cow; eel occurs nowhere.

    f1: cat 2*1/(2+2), dog 2*2/(3+3), cow 1. Matthews: c=4 s=6 sum pt=2*2+3*3+1*1=14: (24-14)/sqrt((36-14)(36-14)).
    """
    wanted, answers = [0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 0, 2]
    _, found = _run(F.one_hot(torch.tensor(answers), 4).float() * 5, wanted, Classification(LABELS))
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert [found[f"f1/{label}"] for label in LABELS] == pytest.approx([0.5, 2 / 3, 1.0, 0.0])
    assert found["macro_f1"] == pytest.approx((0.5 + 2 / 3 + 1) / 3)
    assert found["mcc"] == pytest.approx(10 / 22)
    assert set(found) == {"loss", "accuracy", "macro_f1", "mcc", *(f"f1/{label}" for label in LABELS)}


def test_of_two_labels_it_is_the_phi_coefficient() -> None:
    """True positives 3, false 1, true negatives 4, false 2."""
    counts = [[4.0, 6.0, 5.0], [3.0, 4.0, 5.0]]
    assert matthews(counts) == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))


def test_who_always_says_the_same_correlates_with_nothing() -> None:
    _, found = _run(torch.tensor([[1.0, 0, 0, 0]] * 6), [0, 1, 2, 3, 0, 1], Classification(LABELS))
    assert found["mcc"] == 0
    assert found["macro_f1"] == pytest.approx((2 * 2 / (6 + 2)) / 4)


def test_labels_have_names_of_their_own() -> None:
    with pytest.raises(ValueError, match="names of their own"):
        Classification(("a", "a"))
