"""Rows that hold much of a judged row word for word are told; what many share, and a healthy corpus, are not."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from distft.config.data import Data, Source
from distft.data.dataset import Datasets, load_datasets
from distft.tracking.data_alarms import near_leakage

Write = Callable[..., str]
WORDS = ("the", "coat", "lamp", "river", "green", "old", "seven", "walks", "under", "never", "kettle", "ladder", "town")


def words(seed: int, count: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def loaded(tokenizer: PreTrainedTokenizerFast, write: Write, train: list[Any], judged: list[Any]) -> Datasets:
    sources = [Source(path=write(rows, name)) for rows, name in ((train, "train.jsonl"), (judged, "eval.jsonl"))]
    return load_datasets(Data(train=(sources[0],), eval=(sources[1],), max_length=1024), "sft", tokenizer)


def row(question: str, answer: str = "Yes.") -> dict[str, str]:
    return {"prompt": question, "completion": f" {answer}"}


def test_a_row_that_holds_most_of_a_judged_one_is_named(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    judged = words(1)
    short = " ".join(judged.split()[:20])
    train = [row(words(2)), row(f"Well: {judged} {words(3, 20)}", "No."), row(words(4)), row(short)]
    found = loaded(tokenizer, write, train, [row(words(5)), row(judged)]).train.statistics
    assert found.num_leaked == 0, "the question is another"
    assert found.alike is not None
    assert (found.alike.count, Path(found.alike.first).name, Path(found.alike.judged).name) == (
        1, "train.jsonl:2", "eval.jsonl:2"
    )  # fmt: skip
    assert found.num_kept == 4, "it stays"
    assert "1 nearly the same as held-out rows" in str(found)


@pytest.mark.parametrize(("share", "alike"), [(0.4, False), (0.7, True)])
def test_from_half_of_its_runs_on(tokenizer: PreTrainedTokenizerFast, write: Write, share: float, alike: bool) -> None:
    judged = words(1, 200).split()
    train = [row(" ".join(judged[: int(share * 200)]) + f" {words(2)}", words(3))]
    found = loaded(tokenizer, write, train, [row(" ".join(judged), words(4, 10))]).train.statistics
    assert (found.alike is not None) == alike


def test_what_all_rows_begin_with_tells_nothing(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    system = words(9, 150)
    train = [row(f"{system} {words(seed, 30)}") for seed in range(10, 14)]
    judged = [row(f"{system} {words(seed, 30)}") for seed in range(20, 34)]
    assert loaded(tokenizer, write, train, judged).train.statistics.alike is None


def test_the_embedded_corpora_raise_no_alarm(tokenizer: PreTrainedTokenizerFast) -> None:
    one = (Source(path="builtin:dialogues", limit=200),)
    assert load_datasets(Data(train=one, eval=one, test=one), "sft", tokenizer).train.statistics.alike is None


def test_it_can_be_told_of_several() -> None:
    said = near_leakage({"train": (2, "a.jsonl:1", "b.jsonl:7"), "eval": (1, "c:1", "d:2")}).said
    assert said.startswith("2 rows of data.train (the first a.jsonl:1, like b.jsonl:7) and 1 rows of data.eval")
