"""Real data sets, where they lie beside the checkout; skipped, saying so, where they do not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from distft.config.data import Data, Source
from distft.data.dataset import load_datasets
from distft.data.formats import PreferenceExample, texts_of
from distft.data.readers import example_of
from distft.data.sources import check_rows, format_of, read_rows
from distft.data.tokenizer_training import train_tokenizer


@pytest.fixture(scope="module")
def hh(real_data: Path) -> Source:
    return Source(path=str(real_data / "hh-rlhf" / "harmless-base.jsonl.gz"))


@pytest.fixture(scope="module")
def hh_tokenizer(hh: Source) -> PreTrainedTokenizerFast:
    rows = list(read_rows(hh))[:300]
    texts = [text for row in rows for text in texts_of(example_of(row, "hh_rlhf"))]
    return train_tokenizer(texts, 2048)


def test_hh_rlhf_is_recognised_and_every_row_is_a_pair(hh: Source) -> None:
    checked = check_rows(hh, "dpo")
    assert (checked.format, checked.num_rows, checked.num_unusable) == ("hh_rlhf", 1800, 0)
    early = 0
    for row in read_rows(hh):
        example = example_of(row, format_of(hh, row, "dpo"))
        assert isinstance(example, PreferenceExample)
        assert not isinstance(example.prompt, str)
        assert not isinstance(example.chosen, str)
        turns = [*example.prompt, *example.chosen]
        assert example.prompt[-1].role == "user"
        assert all(one.role != other.role for one, other in pairwise(turns))
        early += len(example.chosen) > 1 or len(example.rejected) > 1
    assert early <= 2  # dialogues that part before their last turn


def test_hh_rlhf_as_pairs_and_as_prompts(hh: Source, hh_tokenizer: PreTrainedTokenizerFast) -> None:
    source = hh.model_copy(update={"limit": 300})
    pairs = load_datasets(Data(train=(source,), max_length=512, holdout=0.1), "dpo", hh_tokenizer)
    assert pairs.eval is not None
    assert pairs.train.num_units > 200
    batch = pairs.train.batch(range(pairs.train.num_units))
    prompts = batch.ragged("prompt_ids")
    for unit in range(0, 100, 7):
        assert np.array_equal(prompts[2 * unit], prompts[2 * unit + 1])
        assert str(hh_tokenizer.decode(prompts[2 * unit])).endswith("<|end|><|assistant|>")
    drop = Data(train=(source,), max_prompt_length=256, overlong="drop")
    asked = load_datasets(drop, "ppo", hh_tokenizer).train
    assert asked.statistics.longest <= 256
    assert asked.num_units > 200


def test_dialogsum(real_data: Path, hh_tokenizer: PreTrainedTokenizerFast) -> None:
    source = Source(path=str(real_data / "dialogsum" / "dialogsum.dev.jsonl"), limit=100)
    train = load_datasets(Data(train=(source,), max_length=1024), "sft", hh_tokenizer).train
    assert train.num_units == 100
    batch = train.batch([0])
    assert str(hh_tokenizer.decode(batch.ragged("prompt_ids")[0])).endswith("\n\nSummary:")
    assert str(hh_tokenizer.decode(batch.ragged("response_ids")[0])).endswith("<|end|>")


def test_gsm8k_through_renamed_columns(real_data: Path, hh_tokenizer: PreTrainedTokenizerFast) -> None:
    columns = {"question": "prompt", "answer": "completion"}
    source = Source(path=str(real_data / "gsm8k" / "train.jsonl"), columns=columns, limit=100)
    train = load_datasets(Data(train=(source,), max_length=1024), "sft", hh_tokenizer).train
    assert train.num_units == 100
    assert "####" in hh_tokenizer.decode(train.batch([0]).ragged("response_ids")[0])
