"""Embeddings by contrast: a killed run ends as an undisturbed one does; what was never trained on is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from distft.data.questions import questions
from tests.e2e.conftest import SMALL, TINY, Start
from tests.e2e.test_resume import assert_same, disturb, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]

WORDS = ("train", "contrastive-tiny", "placement.policy.ranks=2")


def test_killed_in_the_middle_of_a_step(start: Start) -> None:
    words = (*WORDS, *TINY, *SMALL, "evaluation.best=null", "optimizer.warmup_steps=0")
    undisturbed = run(start, *words, folder="undisturbed")
    assert_same(disturb(start, words, "Contrastive"), undisturbed)


def vectors(folder: Path, texts: list[str]) -> Tensor:
    """By transformers alone, as the folder's own files say."""
    said = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert said["pooling_mode_mean_tokens"]
    longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    model: Any = AutoModel.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
    )
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    shown = inputs["attention_mask"][:, :, None]
    return functional.normalize((states * shown).sum(dim=1) / shown.sum(dim=1), dim=-1)


def mrr(anchors: Tensor, positives: Tensor, negatives: Tensor) -> float:
    cosines = anchors @ torch.cat([positives, negatives]).T
    places = (cosines >= cosines.diagonal()[:, None]).sum(dim=1)
    return float((1 / places).mean())


def test_what_was_never_trained_on_is_found(start: Start) -> None:
    folder = run(start, *WORDS, "train.steps=100", folder="run")
    table = json.loads((folder / "before_after.json").read_text())["metrics"]
    assert table["mrr"]["before"] < 0.3
    assert table["mrr"]["after"] > 0.6
    assert table["recall@10"]["after"] > 0.9
    rows = list(questions("test"))
    columns = [[row[name] for row in rows] for name in ("anchor", "positive", "negative")]
    by_transformers = [vectors(folder / "final", texts) for texts in columns]
    assert mrr(*by_transformers) == pytest.approx(table["mrr"]["after"], abs=1e-3)
