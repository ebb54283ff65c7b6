"""Passes against transformers' own logits, one row at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from distft.batches import Batch, Ragged
from distft.config.models import Policy, RewardModel
from distft.evaluation.passes import likelihoods, micro_batches, rewards
from distft.models.families.causal import Causal, load_causal
from distft.models.families.scalar import Scalar, load_scalar
from tests.unit.models import tiny

ROWS = [row.numpy() for row in tiny.rows((9, 4, 12, 6, 7))]
PROMPT = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("passes")
    tiny.write_model(path, "llama")
    return path


@pytest.fixture
def batch() -> Batch:
    """Prompts of three tokens; of each answer the second token is somebody else's."""
    masks = [[number != 1 for number in range(len(row) - PROMPT)] for row in ROWS]
    return Batch(
        {
            "prompt_ids": Ragged.of([row[:PROMPT] for row in ROWS], np.int32),
            "response_ids": Ragged.of([row[PROMPT:] for row in ROWS], np.int32),
            "response_mask": Ragged.of(masks, np.uint8),
        }
    )


def test_likelihoods_are_those_of_the_model(folder: Path, batch: Batch) -> None:
    module = load_causal(str(folder), Policy(path=str(folder), dtype="float32"), dropout=False)
    found = likelihoods(Causal(), module, batch, 0)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    for number, row in enumerate(ROWS):
        with torch.no_grad():
            logits = plain(torch.from_numpy(row)[None]).logits[0, PROMPT - 1 : -1].double()
        targets, mask = torch.from_numpy(row[PROMPT:]), torch.from_numpy(batch.ragged("response_mask")[number]).bool()
        logprobs = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
        assert found.logprobs[number] == pytest.approx(float(logprobs[mask].sum()), abs=1e-4)
        assert found.num_tokens[number] == mask.sum()
        assert found.num_correct[number] == (logits.argmax(-1) == targets)[mask].sum()


def test_rewards_are_read_at_the_last_token(folder: Path, batch: Batch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    plain.save_pretrained(tmp_path)
    module, _ = load_scalar(
        str(tmp_path), RewardModel(path=str(tmp_path), dtype="float32"), dropout=False, new_head=False
    )
    found = rewards(Scalar(), module, batch, 0, None)
    with torch.no_grad():
        alone = [float(plain(torch.from_numpy(row)[None]).logits) for row in ROWS]
    assert found == pytest.approx(np.array(alone), abs=1e-4)
    assert len(set(found)) == len(ROWS)


def test_micro_batches_hold_every_row_once_within_the_limit(batch: Batch) -> None:
    found = list(micro_batches(batch, tokens=20))
    assert sorted(row for rows in found for row in rows) == list(range(len(ROWS)))
    assert all(len(rows) * max(len(ROWS[row]) for row in rows) <= 20 for rows in found)
    assert [len(rows) for rows in micro_batches(batch, tokens=1)] == [1] * len(ROWS)
