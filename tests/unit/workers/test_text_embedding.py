"""Encoders and decoders learn to embed, are kept and exported as plain torch would have it, on one rank and on two."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel

from distft.common.errors import UserError
from distft.config.adapters.lora import Lora
from distft.config.models import Model
from distft.models.families.family import find_family
from tests.unit.engine.group import Group
from tests.unit.models import tiny
from tests.unit.models.encoder_decoders import write_encoder_decoder
from tests.unit.models.encoders import write_encoder
from tests.unit.models.families import write_family
from tests.unit.workers.embedding_side import EPS, RATE, UNITS, learn, rows

ANCHORS = [row for row, unit in enumerate(UNITS) if row == 0 or unit != UNITS[row - 1]]
OTHERS = [row for row in range(len(UNITS)) if row not in ANCHORS]


def write(folder: Path, kind: str) -> str:
    """A model without a head for texts: of an encoder the one of masked tokens, of a decoder the causal one."""
    return write_encoder(folder, kind) if kind in ("bert", "roberta", "modernbert", "deberta-v2") else (
        write_family(folder, kind)
    )  # fmt: skip


def embedded(model: Any, pooling: str) -> Tensor:
    """Each text alone: no padding, no mask."""
    found = []
    for ids in rows():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        found.append({"mean": states.mean(dim=0), "cls": states[0], "last": states[-1]}[pooling])
    return functional.normalize(torch.stack(found), dim=-1)


def loss_of(vectors: Tensor) -> Tensor:
    """Of all texts at once."""
    logits = vectors[ANCHORS] @ vectors[OTHERS].T / 0.2
    return functional.cross_entropy(logits, torch.tensor([OTHERS.index(row + 1) for row in ANCHORS]))


def plain(folder: str, pooling: str, steps: int) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step, in plain torch."""
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, eps=EPS, weight_decay=0.0, fused=True)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(embedded(model, pooling))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        optimizer.step()
        found.append((loss.item(), float(norm)))
    return found


CASES = [("bert", 3, "mean"), ("llama", 0, "last"), *(
    pytest.param(kind, stage, pooling, marks=pytest.mark.slow) for kind, pooling in (
        ("bert", "cls"), ("roberta", "mean"), ("modernbert", "mean"), ("deberta-v2", "cls"), ("llama", "last"),
        ("qwen3", "last"), ("gpt2", "mean"), ("gemma2", "last"),
    ) for stage in (0, 2, 3)
)]  # fmt: skip


@pytest.mark.parametrize(("kind", "stage", "pooling"), CASES)
def test_it_learns_as_plain_torch_does(
    groups: dict[int, Group], tmp_path: Path, kind: str, stage: Literal[0, 2, 3], pooling: str
) -> None:
    """Loss and gradient of every step, on any layout; what is kept goes on to the bit, what is exported says it too."""
    folder = write(tmp_path / "start", kind)
    wanted = plain(folder, pooling, 2)
    for ranks, group in groups.items():
        out = tmp_path / f"out-{ranks}"
        answers = group.call(learn, folder, str(out), stage, pooling)
        for step, (loss, norm) in zip(answers[0]["history"], wanted, strict=True):
            assert step["loss"] == pytest.approx(loss, rel=2e-5)
            assert step["grad_norm"] == pytest.approx(norm, rel=2e-4)
        assert all(answer["same"] for answer in answers)
        assert all(answer["history"] == answers[0]["history"] for answer in answers)
        reopened: Any = AutoModel.from_pretrained(out, dtype=torch.float32).eval()
        with torch.no_grad():
            said = loss_of(embedded(reopened, pooling)).item()
        assert answers[0]["measured"]["loss"] == pytest.approx(said, abs=1e-5)
        assert answers[0]["measured"]["loss"] < wanted[0][0]


@pytest.mark.slow
def test_with_adapters(groups: dict[int, Group], tmp_path: Path) -> None:
    folder, out = write_family(tmp_path / "start", "llama"), tmp_path / "out"
    answers = groups[2].call(learn, folder, str(out), 3, "last", Lora(r=4))
    assert all(answer["same"] for answer in answers)
    reopened: Any = AutoModel.from_pretrained(out, dtype=torch.float32).eval()
    with torch.no_grad():
        said = loss_of(embedded(reopened, "last")).item()
    assert answers[0]["measured"]["loss"] == pytest.approx(said, abs=1e-5)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    folder = write_encoder_decoder(tmp_path / "t5", "t5")
    with pytest.raises(UserError, match="encoder-decoder: its encoder alone"):
        find_family("text_embedding").load(folder, Model(path=folder, dtype="float32"), dropout=False)
    with pytest.raises(ValueError, match="one vector"):
        find_family("text_embedding").outputs(lambda: None, tiny, ("embeddings",), "tokens", 1.0)  # type: ignore[arg-type]
