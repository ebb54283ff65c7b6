"""The prompts that a recipe trains on: those of its tokenised rows of train, none that a held-out row asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from distft.config.data import Data, Source
from distft.data.dataset import load_datasets
from distft.data.formats import prompt_of
from distft.data.prompts import training_prompts


def _answered(number: int) -> dict[str, Any]:
    return {"prompt": f"Question {number}?", "completion": f" Answer {number}."}


def _implicit(number: int) -> dict[str, Any]:
    asked = {"role": "user", "content": f"Question {number}?"}
    chosen, rejected = ({"role": "assistant", "content": f"{said} {number}"} for said in ("Yes", "No"))
    return {"chosen": [asked, chosen], "rejected": [asked, rejected]}


def _dialogue(number: int) -> dict[str, Any]:
    said = [f"Question {number}?", "What of it?", "Tell me.", f"It is {number}."]
    roles = ["user", "assistant"] * 2
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]}


@pytest.mark.parametrize("eval_rows", [(), range(30, 50)])
@pytest.mark.parametrize(("kind", "row"), [("sft", _answered), ("sft", _dialogue), ("dpo", _implicit)])
def test_they_are_those_of_the_rows_of_train(
    kind: str, row: Callable[[int], dict[str, Any]], eval_rows: range, tokenizer: PreTrainedTokenizerFast,
    write: Callable[..., str],
) -> None:  # fmt: skip
    train = Source(path=write(map(row, range(40)), "train.jsonl"))
    judged = [Source(path=write(map(row, eval_rows), "eval.jsonl"))] if eval_rows else []
    data = Data(train=(train,), eval=tuple(judged), holdout=0.3)
    trained = load_datasets(data, kind, tokenizer).train
    expected = {prompt_of(example) for example in trained.rows(range(trained.num_units))}
    found = [prompt for prompt, _ in training_prompts(data)]
    assert 0 < len(found) == len(set(found)) < 32
    assert set(found) == expected
