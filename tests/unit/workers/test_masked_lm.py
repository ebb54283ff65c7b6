"""Encoders learn masked tokens, are kept and exported as plain transformers would have it, on one rank and on two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForMaskedLM

from distft.config.adapters.lora import Lora
from tests.unit.engine.group import Group
from tests.unit.models.encoders import ENCODERS, write_encoder
from tests.unit.workers import masked_side as side

CASES = [("bert", 3), *(
    pytest.param(kind, stage, marks=pytest.mark.slow)
    for kind in ENCODERS for stage in (0, 2, 3) if (kind, stage) != ("bert", 3)
)]  # fmt: skip
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def start(tmp_path: Path, kind: str) -> str:
    return write_encoder(tmp_path / "start", kind, **({} if kind == "modernbert" else STILL))


def loss_of(model: Any) -> torch.Tensor:
    """transformers' own, row by row, over all learned tokens."""
    sums = []
    for read, text, learned in side.rows():
        labels = torch.where(torch.tensor([learned]) == 1, torch.tensor([text]), -100)
        sums.append(model(input_ids=torch.tensor([read]), labels=labels).loss * sum(learned))
    total: torch.Tensor = torch.stack(sums).sum() / sum(sum(learned) for _, _, learned in side.rows())
    return total


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_it_learns_what_plain_transformers_learns(
    groups: dict[int, Group], tmp_path: Path, kind: str, stage: int
) -> None:
    folder = start(tmp_path, kind)
    model: Any = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.get_input_embeddings().padding_idx = None
    adam, losses = torch.optim.AdamW(model.parameters(), lr=side.RATE, eps=side.EPS, weight_decay=0.0), []
    for _ in range(side.STEPS):
        adam.zero_grad()
        loss = loss_of(model)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        losses.append(float(loss.detach()))
    for ranks, group in groups.items():
        out = tmp_path / f"out-{ranks}"
        answers = group.call(side.learn, folder, str(out), stage)
        assert answers[0]["losses"] == pytest.approx(losses, rel=1e-5)
        assert all(answer["same"] for answer in answers)
        found: Any = AutoModelForMaskedLM.from_pretrained(out, dtype=torch.float32)
        wanted = dict(model.named_parameters())
        for key, tensor in found.named_parameters():
            torch.testing.assert_close(tensor, wanted.pop(key), rtol=1e-4, atol=0.02 * side.RATE, msg=key)
        assert not wanted


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_adapters_are_read_by_peft(groups: dict[int, Group], tmp_path: Path, kind: str) -> None:
    folder, out = start(tmp_path, kind), tmp_path / "out"
    answers = groups[2].call(side.learn, folder, str(out), 3, Lora(r=4))
    assert answers[0]["losses"][-1] < answers[0]["losses"][0]
    merged: Any = AutoModelForMaskedLM.from_pretrained(out, dtype=torch.float32).eval()
    base: Any = AutoModelForMaskedLM.from_pretrained(folder)
    by_peft: Any = PeftModel.from_pretrained(base, out / "adapter").eval()
    with torch.no_grad():
        assert float(loss_of(by_peft)) == pytest.approx(float(loss_of(merged)), abs=1e-5)
        assert float(loss_of(merged)) < answers[0]["losses"][-1]
