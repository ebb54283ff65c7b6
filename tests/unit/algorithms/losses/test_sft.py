from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from distft.algorithms.logprobs import token_logprobs
from distft.algorithms.losses.base import LossBatch
from distft.algorithms.losses.sft import Sft


def test_equals_cross_entropy_over_target_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 9, generator=generator).requires_grad_()
    targets = torch.randint(0, 9, (6,), generator=generator)
    mask = torch.tensor([True, False, True, True, True, False])
    batch = LossBatch(mask, torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([True, True]), {})
    outputs = token_logprobs(logits, targets, outputs=Sft.outputs)
    result = Sft()(outputs, batch, {"tokens": 4.0, "sequences": 2.0, "units": 2.0})
    torch.testing.assert_close(result.loss, F.cross_entropy(logits[mask], targets[mask]))
    entropy = torch.distributions.Categorical(logits=logits[mask]).entropy().mean()
    assert result.metrics["entropy"].reduce == "tokens"
    assert result.metrics["entropy"].value.item() / 4 == pytest.approx(entropy.item(), rel=1e-6)
