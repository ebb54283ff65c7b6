"""Reward models of encoder-decoders say, learn and are kept as transformers' own modules would have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distft.common.errors import UserError
from distft.config.adapters.lora import Lora
from distft.config.data import ANSWER_SCORE
from distft.config.models import RewardModel
from distft.models.families.family import find_family
from tests.unit.engine.group import Group
from tests.unit.models.encoder_decoders import write_encoder_decoder
from tests.unit.workers import answer_score_side as side
from tests.unit.workers.answer_value_side import read
from tests.unit.workers.test_answer_values import with_a_head

CLOSE = 1e-5
slow = pytest.mark.slow
NAMES = ("flan-t5", "bart", "t5", "mt5", "umt5", "bart-untied")
CASES = [("flan-t5", 3), *(
    pytest.param(name, stage, marks=slow) for name in NAMES for stage in (0, 2, 3) if (name, stage) != ("flan-t5", 3)
)]  # fmt: skip


def ours(folder: str) -> str:
    """The classifier in that folder, as a run of ours would have made it."""
    file = Path(folder) / "config.json"
    named = {"id2label": {"0": ANSWER_SCORE}, "label2id": {ANSWER_SCORE: 0}}
    file.write_text(json.dumps(json.loads(file.read_text()) | named))
    return folder


def merged(answers: list[dict[str, Any]], what: str) -> torch.Tensor:
    """What all ranks say, by sample."""
    found: dict[int, float] = {}
    for answer in answers:
        found |= answer[what]
    assert sorted(found) == list(range(len(side.pairs())))
    return torch.tensor([found[sample] for sample in sorted(found)])


def plain_scores(folder: Path | str) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack(side.plain_scores(read(folder)))


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_a_reward_models_life(groups: dict[int, Group], tmp_path: Path, name: str, stage: int) -> None:
    """From pairs, on one rank and on two: what it says, what it learns, and what is read of what is left."""
    folder = ours(with_a_head(tmp_path, name))
    start, losses = plain_scores(folder), side.plainly(folder)
    for ranks, group in groups.items():
        out = tmp_path / f"out-{ranks}"
        answers = group.call(side.reward, folder, str(out), stage)
        torch.testing.assert_close(merged(answers, "before"), start, rtol=0, atol=CLOSE)
        assert [step["loss"] for step in answers[0]["steps"]] == pytest.approx(losses, rel=1e-5)
        after = merged(answers, "after")
        assert (after - start).abs().max() > 100 * CLOSE
        torch.testing.assert_close(after, plain_scores(out), rtol=0, atol=CLOSE)
        torch.testing.assert_close(after, torch.tensor(side.alone(str(out))), rtol=0, atol=CLOSE)
        torch.testing.assert_close(after, merged(answers, "finished"), rtol=0, atol=CLOSE)
        assert all(answer["same"] for answer in answers)
        assert read(out).config.id2label == {0: ANSWER_SCORE}


@slow
@pytest.mark.parametrize("name", ["flan-t5", "bart"])
def test_the_head_is_new_beside_adapters(groups: dict[int, Group], tmp_path: Path, name: str) -> None:
    folder, out = write_encoder_decoder(tmp_path / "start", name), tmp_path / "out"
    answers = groups[2].call(side.reward, folder, str(out), 3, lora=Lora(r=4))
    assert merged(answers, "before").std() > 1e-3
    assert answers[0]["steps"][-1]["loss"] < answers[0]["steps"][0]["loss"]
    torch.testing.assert_close(merged(answers, "after"), plain_scores(out), rtol=0, atol=CLOSE)
    torch.testing.assert_close(merged(answers, "after"), merged(answers, "finished"), rtol=0, atol=CLOSE)


def test_a_classifier_of_transformers_reads_otherwise(tmp_path: Path) -> None:
    folder, family = with_a_head(tmp_path, "t5"), find_family("seq2seq_scalar")
    with pytest.raises(UserError, match=r"this t5 is a classifier as transformers has it.*\n.*a `reward` recipe"):
        family.load(folder, RewardModel(path=folder), dropout=False)
    ours(folder)
    family.load(folder, RewardModel(path=folder), dropout=False)
    with pytest.raises(UserError, match="has neither labels nor steps"):
        family.load(folder, RewardModel(path=folder, label=ANSWER_SCORE), dropout=False)
    with pytest.raises(UserError, match="has neither labels nor steps"):
        find_family("seq2seq_scalar", ("polite", "rude")).load(folder, RewardModel(path=folder), dropout=False)
