"""A T5 as a reward model: it learns which answers are better, and scores those of a T5, in whose tokens it reads, and
of a decoder, whose words it reads anew. By transformers alone the scores are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distft.config.data import ANSWER_SCORE
from distft.data.builtin import dialogues
from distft.data.encode_apart import encoder_for
from distft.data.formats import Message
from distft.models.tokenizer import load_tokenizer
from tests.e2e.conftest import Start, computed, events, grouped, lines, starting
from tests.unit.workers.answer_value_side import plain_values, read

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]
SIZES = "{architecture: t5, hidden_size: 64, num_layers: 2, num_heads: 4, vocab_size: 768, tie_embeddings: false}"


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run folder of a T5 that was trained on the embedded pairs."""
    with starting(tmp_path_factory.mktemp("reward")) as start:
        verb = start(
            "train",
            "reward-tiny",
            f"models.reward.init={SIZES}",
            "optimizer.learning_rate=3e-3",
            "train.steps=160",
            "evaluation.max_samples=300",
        )
        assert verb.end(900) == 0, verb.output
        yield verb.folder


class Judge:
    """The reward model as transformers reads it."""

    def __init__(self, folder: Path) -> None:
        self.model, tokenizer = read(folder / "final"), load_tokenizer(str(folder / "final"))
        self.encoder = encoder_for(tokenizer, "reward")

    @torch.no_grad()
    def score(self, question: str, answer: str, *, ended: bool = True) -> float:
        prompt = (Message("user", question),)
        read_as = self.encoder.answer if ended else self.encoder.cut_answer
        found = read_as(prompt, answer, "here")
        return float(plain_values(self.model, found.prompt_ids, found.response_ids)[-1])


def test_it_learns_which_answer_is_better(reward: Path) -> None:
    """Held-out accuracy is what transformers' own modules find, and most pairs are told apart."""
    judge = Judge(reward)
    assert judge.model.config.id2label == {0: ANSWER_SCORE}
    rows = list(dialogues("test"))
    right = [
        judge.score(row["prompt"][0]["content"], row["chosen"][0]["content"])
        > judge.score(row["prompt"][0]["content"], row["rejected"][0]["content"])
        for row in rows
    ]
    table: Any = json.loads((reward / "before_after.json").read_text())["metrics"]
    assert table["accuracy"]["after"] == pytest.approx(sum(right) / len(right), abs=0.004)
    assert table["accuracy"]["after"] > 0.85 > table["accuracy"]["before"]


def test_a_t5_is_rewarded_by_it_and_its_value_model_begins_as_it(reward: Path, start: Start) -> None:
    verb = start(
        "train", "t5-ppo-tiny", f"models.reward={{path: run:{reward}, dtype: float32}}", "train.steps=4",
        "evaluation.every=0", "data.test.0.limit=16",
    )  # fmt: skip
    assert verb.end(600) == 0, verb.output
    assert f"loading {reward / 'final'}" in verb.log("reward-1")
    assert f"loading {reward / 'final'}" in verb.log("value-1")
    train = [line for line in computed(verb.folder) if line["split"] == "train"]
    assert len(train) == 4
    assert all(line["objective/scores_std"] > 0 for line in train)
    assert not events(verb.folder, "alarm")


def test_a_decoder_is_rewarded_by_what_it_reads(reward: Path, sft: Path, start: Start) -> None:
    """GRPO: each answer's score is that of its words behind its question, ended or cut."""
    words = grouped(sft, kind="grpo")
    verb = start(*words, f"models.reward={{path: run:{reward}, dtype: float32}}", "tracking.samples_every=1")
    assert verb.end(600) == 0, verb.output
    judge, questions = Judge(reward), [row["prompt"][0]["content"] for row in dialogues("train")]
    said = [one for one in lines(verb.folder, "samples") if one.get("split", "train") == "train"]
    assert len(said) >= 4
    for one in said:
        question = max((question for question in questions if question in one["prompt"]), key=len)
        scores = [judge.score(question, one["completion"], ended=ended) for ended in (True, False)]
        assert min(abs(one["score"] - score) for score in scores) < 1e-4, (one, scores)
