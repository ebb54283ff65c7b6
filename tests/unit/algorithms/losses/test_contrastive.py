"""InfoNCE: worked by hand, as one loss of all texts in plain torch, and whatever way the texts are dealt out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from distft.algorithms.losses.base import LossBatch
from distft.algorithms.losses.contrastive import Contrastive

UNITS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 3, 3])  # anchor, positive, and of two rows a negative
TEXTS = torch.arange(len(UNITS))
ANCHORS = [0, 2, 5, 7]


def run(
    loss: Contrastive, vectors: Tensor, split: Sequence[Sequence[int]], units: Tensor = UNITS, texts: Tensor = TEXTS
) -> tuple[float, dict[str, float]]:
    """Loss and metrics of a step in those micro-batches; gradients gather in ``vectors``."""
    columns = loss.relate({"embeddings": vectors.detach()}, units, texts)
    num_units = float(len(units.unique()))
    value, metrics = 0.0, dict[str, float]()
    for rows in split:
        batch = LossBatch(
            torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.long),
            torch.ones(len(rows), dtype=torch.bool), {name: column[list(rows)] for name, column in columns.items()},
        )  # fmt: skip
        result = loss({"embeddings": vectors[list(rows)]}, batch, {"units": num_units})
        result.loss.backward()
        value += result.loss.item()
        for name, metric in result.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + metric.value.item() / num_units
    return value, metrics


def test_by_hand() -> None:
    """Two rows of vectors a quarter turn apart: every cosine is 0, 1 or -1, and the temperature 1/2."""
    vectors = torch.tensor([[3.0, 0], [1, 0], [0, 2], [0, -1], [0, 5]], requires_grad=True)
    units = torch.tensor([0, 0, 1, 1, 1])
    value, metrics = run(Contrastive(temperature=0.5), vectors, [range(5)], units, torch.arange(5))
    # Candidates of both anchors: (1, 0), (0, -1), (0, 5). Of the first: cosines 1, 0, 0; of the second 0, -1, 1.
    first = -math.log(math.exp(2) / (math.exp(2) + 2))
    second = -math.log(math.exp(-2) / (1 + math.exp(-2) + math.exp(2)))
    assert value == pytest.approx((first + second) / 2)
    assert metrics["recall@1"] == 0.5
    assert metrics["recall@5"] == 1.0
    assert metrics["mrr"] == pytest.approx((1 + 1 / 3) / 2)
    assert metrics["cosine/positive"] == pytest.approx(0.0)  # 1 and -1
    assert metrics["cosine/others"] == pytest.approx((0.0 + 0.5) / 2)
    # Along the first anchor's own direction its length changes nothing; across it, (0, -1) and (0, 5) pull alike.
    assert vectors.grad is not None
    assert vectors.grad[0].tolist() == pytest.approx([0.0, 0.0], abs=1e-7)
    # The first anchor's positive may only turn: towards it is where it is, and the second anchor pushes it downwards,
    # by its share p = 1 / (1 + e^-2 + e^2) of that anchor's sum, over the temperature, of two rows.
    assert vectors.grad[1].tolist() == pytest.approx([0.0, 1 / (1 + math.exp(-2) + math.exp(2)) / 0.5 / 2])


def plain(vectors: Tensor, temperature: float) -> Tensor:
    """All texts of a step at once."""
    unit_vectors = functional.normalize(vectors, dim=-1)
    candidates = [row for row in range(len(UNITS)) if row not in ANCHORS]
    logits = unit_vectors[ANCHORS] @ unit_vectors[candidates].T / temperature
    return functional.cross_entropy(logits, torch.tensor([candidates.index(row + 1) for row in ANCHORS]))


@pytest.mark.parametrize("split", [
    [range(10)], [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]], [[9, 8, 7, 0], [1], [6, 5, 4, 3, 2], []]
])  # fmt: skip
def test_any_split_has_the_gradients_of_the_whole(split: Sequence[Sequence[int]]) -> None:
    vectors = torch.randn(len(UNITS), 6, generator=torch.Generator().manual_seed(1))
    whole, parts = vectors.clone().requires_grad_(), vectors.clone().requires_grad_()
    wanted = plain(whole, 0.07)
    wanted.backward()
    value, _ = run(Contrastive(temperature=0.07), parts, split)
    assert value == pytest.approx(wanted.item(), rel=1e-6)
    assert whole.grad is not None
    assert parts.grad is not None
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-5, atol=1e-7)


def test_what_is_no_negative_is_left_out() -> None:
    """The positive word for word in another row, and what another row with the same anchor calls positive."""
    vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    units = torch.tensor([0, 0, 1, 1])

    def loss_of(texts: list[int]) -> float:
        return run(Contrastive(), vectors.clone().requires_grad_(), [range(4)], units, torch.tensor(texts))[0]

    assert loss_of([0, 1, 2, 3]) > 0.01
    assert loss_of([0, 1, 2, 1]) == pytest.approx(0.0, abs=1e-6)
    assert loss_of([0, 1, 0, 3]) == pytest.approx(0.0, abs=1e-6)


def test_a_model_to_which_all_texts_are_alike_finds_nothing() -> None:
    vectors = torch.ones(len(UNITS), 4, requires_grad=True)
    value, metrics = run(Contrastive(), vectors, [range(10)])
    assert value == pytest.approx(math.log(6))
    assert metrics["recall@1"] == 0.0
    assert metrics["mrr"] == pytest.approx(1 / 6)


def test_a_temperature_below_zero() -> None:
    with pytest.raises(ValueError, match="temperature"):
        Contrastive(temperature=0.0)
