from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from distft.algorithms.logprobs import token_logprobs
from distft.algorithms.losses.base import LossBatch
from distft.algorithms.losses.pretrain import Pretrain


def test_perplexity_is_of_all_tokens_and_not_a_mean_over_micro_batches() -> None:
    """Two micro-batches of two and one tokens, of losses 1, 2 and 6: e to 3, whose mean by micro-batches is another."""
    finalized = Pretrain().finalize({"loss": (1 + 2 + 6) / 3, "entropy": 0.5})
    assert finalized == {"loss": 3.0, "entropy": 0.5, "perplexity": pytest.approx(math.exp(3))}
    assert Pretrain().finalize({"loss": 1e6})["perplexity"] < math.inf


def test_the_loss_is_cross_entropy() -> None:
    logits, targets = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 1, 4, 1, 5])
    batch = LossBatch(torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.int64), torch.tensor([True]), {})
    counts = {"tokens": 5.0, "sequences": 1.0, "units": 1.0}
    result = Pretrain()(token_logprobs(logits, targets, outputs=Pretrain.outputs), batch, counts)
    torch.testing.assert_close(result.loss, F.cross_entropy(logits, targets))
