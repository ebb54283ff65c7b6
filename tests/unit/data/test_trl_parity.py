"""The ids and masks are those of TRL's trainers, where TRL cuts at a token border."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from distft.config.data import Data, Source
from distft.data.builtin import dialogues
from distft.data.dataset import load_datasets
from distft.data.tokenized import TokenizedDataset

Write = Callable[..., str]
BUILTIN = [row for _, row in zip(range(12), dialogues("eval"), strict=False)]
PLAIN = [{"prompt": row["prompt"][0]["content"], "completion": " " + row["chosen"][0]["content"]} for row in BUILTIN]
LONG = [
    {"messages": row["messages"] + other["messages"] + row["prompt"]}
    for row, other in zip(BUILTIN, reversed(BUILTIN), strict=True)
]


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip


def _ours(tokenizer: PreTrainedTokenizerFast, path: str, kind: str, loss_on: str | None) -> TokenizedDataset:
    return load_datasets(Data(train=(Source(path=path),)), kind, tokenizer, loss_on=loss_on).train


def _labels(dataset: TokenizedDataset) -> list[tuple[list[int], list[int]]]:
    """For each sequence its ids, and the ids of its trained tokens with -100 in the other places."""
    batch = dataset.batch(range(dataset.num_units))
    found = []
    for row in range(len(batch)):
        prompt, response = batch.ragged("prompt_ids")[row].tolist(), batch.ragged("response_ids")[row].tolist()
        mask = batch.ragged("response_mask")[row] if "response_mask" in batch else [1] * len(response)
        trained = [token if keep else -100 for token, keep in zip(response, mask, strict=True)]
        found.append((prompt + response, [-100] * len(prompt) + trained))
    return found


@pytest.mark.parametrize(
    ("rows", "settings", "loss_on"),
    [
        (PLAIN, {"completion_only_loss": True}, "completion"),
        (PLAIN, {"completion_only_loss": False}, "all"),
        ([{"prompt": row["prompt"], "completion": row["chosen"]} for row in BUILTIN], {}, "completion"),
        ([{"messages": row["messages"]} for row in BUILTIN], {"assistant_only_loss": True}, "assistant"),
        (LONG, {"assistant_only_loss": True}, "assistant"),
        ([{"messages": row["messages"]} for row in BUILTIN], {}, "all"),
        ([{"text": row["prompt"][0]["content"]} for row in BUILTIN], {}, "all"),
    ],
    ids=["plain", "plain-all", "turns", "assistant", "several-turns", "dialogue-all", "text"],
)
def test_supervised_rows(
    tokenizer: PreTrainedTokenizerFast, write: Write, tmp_path: Path, rows: list[Any], settings: Any, loss_on: str
) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=LlamaForCausalLM(_config(tokenizer)),
        args=SFTConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, max_length=None, **settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    ours = _labels(_ours(tokenizer, write(rows), "sft", loss_on))
    assert len(trainer.train_dataset) == len(ours) == len(rows)
    for theirs, (ids, labels) in zip(trainer.train_dataset, ours, strict=True):
        labels_there = theirs.get("labels", theirs["input_ids"])
        # What follows the last trained token is left out here: it changes no loss.
        assert theirs["input_ids"][: len(ids)] == ids
        assert set(labels_there[len(ids) :]) <= {-100}
        # TRL names the first token too, and drops it when it shifts the labels.
        assert labels_there[1 : len(ids)] == labels[1:]


@pytest.mark.parametrize("conversational", [True, False], ids=["turns", "plain"])
def test_pairs(tokenizer: PreTrainedTokenizerFast, write: Write, tmp_path: Path, conversational: bool) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    def side(row: dict[str, Any], name: str) -> Any:
        return row[name] if conversational else " " + row[name][0]["content"]

    rows = [
        {
            "prompt": row["prompt"] if conversational else row["prompt"][0]["content"],
            "chosen": side(row, "chosen"),
            "rejected": side(row, "rejected"),
        }
        for row in BUILTIN
    ]
    trainer = DPOTrainer(
        model=LlamaForCausalLM(_config(tokenizer)),
        ref_model=LlamaForCausalLM(_config(tokenizer)),
        args=DPOConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    ours = _ours(tokenizer, write(rows), "dpo", None)
    batch = ours.batch(range(ours.num_units))
    assert len(trainer.train_dataset) == ours.num_units
    for number, theirs in enumerate(trainer.train_dataset):
        for place, name in enumerate(("chosen_ids", "rejected_ids")):
            assert batch.ragged("prompt_ids")[2 * number + place].tolist() == theirs["prompt_ids"]
            assert batch.ragged("response_ids")[2 * number + place].tolist() == theirs[name]


def test_implicit_prompts_of_the_reward_trainer(
    tokenizer: PreTrainedTokenizerFast, write: Write, tmp_path: Path
) -> None:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    rows = [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in BUILTIN]
    config = _config(tokenizer)
    config.num_labels = 1
    trainer = RewardTrainer(
        model=LlamaForSequenceClassification(config),
        args=RewardConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    ours = [ids for ids, _ in _labels(_ours(tokenizer, write(rows), "reward", None))]
    theirs = [row[name] for row in trainer.train_dataset for name in ("chosen_ids", "rejected_ids")]
    assert ours == theirs
