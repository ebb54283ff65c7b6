"""The loss of process reward models: by hand, and as token classification of two labels, which TRL's trainer was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    PreTrainedTokenizerFast,
)

from distft.algorithms.losses.base import LossBatch
from distft.algorithms.losses.process_reward import ProcessReward
from distft.batches import Batch, Ragged
from distft.config.models import RewardModel
from distft.data.encode import Encoder
from distft.data.formats import StepwiseExample
from distft.models.families.scalar import Scalar
from distft.workers.collate import collate

# Three answers of 3, 2 and 2 steps; the last is right throughout.
STEPS = [[1, 0, 0], [1, 1], [0, 0]]
REWARDS = [[2.0, -1.0, 3.0], [0.5, 0.5], [1.0, -1.0]]


def run(rewards: torch.Tensor, steps: torch.Tensor, segments: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    num = int(segments.max()) + 1
    counts = {"tokens": float(len(steps)), "sequences": float(num)}
    batch = LossBatch(
        torch.ones(len(steps), dtype=torch.bool), segments, torch.ones(num, dtype=torch.bool), {"step": steps.float()}
    )
    result = ProcessReward()({"values": rewards}, batch, counts)
    reduced = {name: one.value.item() / counts.get(one.reduce, 1.0) for name, one in result.metrics.items()}
    return result.loss, ProcessReward().finalize({"loss": result.loss.item(), **reduced})


def test_by_hand() -> None:
    """-log sig(2), -log sig(1), -log sig(-3), 2 x -log sig(0.5), -log sig(-1), -log sig(1), over 7. Right steps: 3 of 3
    are found; wrong ones: the second of the first answer and the second of the third, of 4. The first wrong step is
    found in the first answer (the second) and the second answer (none), not in the third."""
    flat = torch.tensor([one for row in REWARDS for one in row])
    steps = torch.tensor([one for row in STEPS for one in row])
    loss, found = run(flat, steps, torch.tensor([0, 0, 0, 1, 1, 2, 2]))
    nll = [math.log1p(math.exp(-margin)) for margin in (2.0, 1.0, -3.0, 0.5, 0.5, -1.0, 1.0)]
    assert loss.item() == pytest.approx(sum(nll) / 7)
    assert found == {
        "loss": pytest.approx(sum(nll) / 7), "accuracy": pytest.approx(5 / 7), "first_wrong": pytest.approx(2 / 3),
        "accuracy/right": 1.0, "accuracy/wrong": 0.5,
    }  # fmt: skip


def test_a_sort_of_which_there_is_none_has_no_accuracy() -> None:
    _, found = run(torch.tensor([1.0, -1.0]), torch.tensor([1, 1]), torch.tensor([0, 0]))
    assert found["accuracy/right"] == 0.5
    assert "accuracy/wrong" not in found


ROWS = [
    StepwiseExample("a b =", ("c d", "e", "d d d"), (True, False, False)),
    StepwiseExample("b", ("a", "c c"), (True, True)),
]


def test_it_is_token_classification_with_the_labels_at_the_ends_of_separators(tmp_path: Path) -> None:
    """TRL's PRMTrainer (gone from TRL 1.16): prompt, each step and each separator tokenised apart, the label at the
    separator's last token, -100 elsewhere, the cross entropy of AutoModelForTokenClassification's two labels. With a
    head of one row where its other is 0, the logits differ by our reward."""
    words = {
        word: number for number, word in enumerate(["<pad>", "<unk>", "a", "b", "c", "d", "e", "=", "|", "||", "</s>"])
    }
    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=2,
    )  # fmt: skip
    theirs = LlamaForTokenClassification(config).eval()
    with torch.no_grad():
        theirs.score.weight[0] = 0
        theirs.score.bias.zero_()
    ids, labels = [], []
    for row in ROWS:
        tokens = tokenizer(row.prompt, add_special_tokens=False)["input_ids"]
        marks = [-100] * len(tokens)
        for step, right in zip(row.steps, row.labels, strict=True):
            more = tokenizer(step, add_special_tokens=False)["input_ids"] + tokenizer("| ||")["input_ids"]
            tokens, marks = tokens + more, marks + [-100] * (len(more) - 1) + [int(right)]
        ids.append(tokens)
        labels.append(marks)
    with torch.no_grad():
        logits = [theirs(torch.tensor([row])).logits[0] for row in ids]
    flat = torch.tensor([mark for row in labels for mark in row])
    expected = F.cross_entropy(torch.cat(logits), flat, ignore_index=-100)

    config.num_labels = 1
    model = tmp_path / "model"
    ours = LlamaForSequenceClassification(config)
    ours.model.load_state_dict(theirs.model.state_dict())
    with torch.no_grad():
        ours.score.weight.copy_(theirs.score.weight[1:])
    ours.save_pretrained(model)
    tokenizer.save_pretrained(model)
    loaded = Scalar().load(str(model), RewardModel(path=str(model), dtype="float32"), dropout=False)
    encoded = [Encoder(tokenizer, "reward").stepwise(row, "| ||") for row in ROWS]
    assert [one.prompt_ids + one.response_ids[:-1] for one in encoded] == ids
    batch = Batch(
        {
            "prompt_ids": Ragged.of([one.prompt_ids for one in encoded], "int32"),
            "response_ids": Ragged.of([one.response_ids for one in encoded], "int32"),
            "response_mask": Ragged.of([one.mask for one in encoded], "uint8"),
        }
    )
    micro = collate(Scalar(), batch, [0, 1], (), 0, torch.device("cpu"))
    with torch.no_grad():
        values = Scalar().outputs(loaded.module, micro, ("values",), "tokens", 1.0)["values"]
    steps = torch.tensor([right for row in ROWS for right in row.labels])
    loss, _ = run(values, steps, micro.loss.segments)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert len(values) == 5
