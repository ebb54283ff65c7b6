"""How true one model is to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from distft.evaluation import fidelity as module
from distft.evaluation.fidelity import fidelity
from tests.harness.speakers import write_speaker

TEXTS = [np.arange(5, 5 + length, dtype=np.int32) for length in (2, 30, 7)]


def test_it_is_what_torch_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into pieces, too."""
    plain, other = (
        AutoModelForCausalLM.from_pretrained(write_speaker(tmp_path / str(seed), seed=seed)) for seed in (0, 1)
    )
    losses, apart, same = [], [], []
    for text in TEXTS:
        ids = torch.tensor(text, dtype=torch.long).unsqueeze(0)
        with torch.no_grad():
            said: list[Any] = [model(input_ids=ids).logits[0, :-1].double() for model in (plain, other)]
        losses.append([F.cross_entropy(one, ids[0, 1:], reduction="sum").item() for one in said])
        one, two = (logits.log_softmax(-1) for logits in said)
        apart.append(F.kl_div(two, one, reduction="sum", log_target=True).item())
        same.append((one.argmax(-1) == two.argmax(-1)).sum().item())
    count = sum(len(text) - 1 for text in TEXTS)
    before, after = np.exp(np.sum(losses, axis=0) / count)
    monkeypatch.setattr(module, "_AT_ONCE", 4)
    found = fidelity(plain, other, TEXTS)
    assert found.num_tokens == count
    assert (found.before, found.after) == pytest.approx((before, after))
    assert found.divergence == pytest.approx(sum(apart) / count)
    assert found.agreement == pytest.approx(sum(same) / count)
    again = fidelity(plain, plain, TEXTS)
    assert (again.before, again.divergence, again.agreement) == (again.after, 0.0, 1.0)
