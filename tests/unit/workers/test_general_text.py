"""Texts to see by what is forgotten."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.data.encode import Encoder
from distft.data.formats import TextExample
from distft.data.stories import stories
from distft.data.tokenizer_training import train_tokenizer
from distft.workers.general_text import general_text


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(train_tokenizer([str(row["text"]) for row in islice(stories("train"), 20)], 400))


def test_the_embedded_texts_are_those_that_nothing_trains_on(encoder: Encoder) -> None:
    batch = general_text("builtin", encoder, 3, 32)
    lengths = batch.ragged("response_ids").lengths.tolist()
    assert len(batch) == 3
    assert max(lengths) == 32, "cut"
    assert batch.dense("unit").tolist() == [0, 1, 2]
    first = str(next(iter(stories("test")))["text"])
    ids = batch.ragged("response_ids")[0].tolist()
    assert ids == encoder.supervised(TextExample(first), "all").response_ids[: len(ids)]
    assert batch.ragged("response_mask")[0].tolist() == [0] + [1] * (lengths[0] - 1), "nothing predicts the first token"


def test_of_other_rows_everything_that_is_said_counts(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Who?", "completion": "Nobody at all."}) + "\n")
    batch = general_text(str(path), encoder, 5, 100)
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps({"text": "Who?\nNobody at all."}) + "\n")
    same = general_text(str(plain), encoder, 5, 100)
    assert batch.ragged("response_ids")[0].tolist() == same.ragged("response_ids")[0].tolist()


def test_a_source_that_is_not_there_or_empty_is_said(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        general_text(str(tmp_path / "nowhere.jsonl"), encoder, 5, 100)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(UserError):
        general_text(str(empty), encoder, 5, 100)
