"""How far judged rows are from trained ones: as counted one by one, and which of them raise an alarm."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from distft.config.data import Data
from distft.data.dataset import Datasets, load_datasets
from distft.data.stories import stories
from distft.data.tokenizer_training import train_tokenizer
from distft.tracking.data_alarms import Drift, drifted
from distft.workers.drift import FEWEST, drift

SENTENCES = (
    "the cat sat on a mat and saw that it was warm there so she slept until the sun went down",
    "die Katze lag auf einer Matte und sah dass es dort warm war bis abends der Mond aufging",
)
ENGLISH, GERMAN = (one.split() for one in SENTENCES)
TOKENIZER = train_tokenizer(list(SENTENCES) * 3, 400)


def rows(words: Sequence[str], count: int, length: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(length // 2, length))) for _ in range(count)]


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Datasets]:
    def make(train: list[str], judged: list[str], tokenizer: Any = TOKENIZER) -> Datasets:
        for name, texts in (("train", train), ("eval", judged)):
            (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
        sources = {name: [{"path": str(tmp_path / f"{name}.jsonl")}] for name in ("train", "eval")}
        return load_datasets(Data.model_validate({**sources, "on_leak": "warn"}), "sft", tokenizer)

    return make


def between(datasets: Datasets) -> Drift | None:
    assert datasets.eval is not None
    return drift(datasets.train, datasets.eval, prompts=False)


def test_as_counted_one_by_one(made: Callable[..., Datasets]) -> None:
    datasets = made(rows(ENGLISH, 30, 12, 1), rows([*ENGLISH[:9], *GERMAN[:3]], 25, 8, 2))
    found, (own, theirs) = between(datasets), [
        [[*batch.ragged("prompt_ids")[row].tolist(), *batch.ragged("response_ids")[row].tolist()] for row in
         range(len(batch))] for dataset in (datasets.train, datasets.eval) if dataset
        for batch in [dataset.batch(range(dataset.num_units))]
    ]  # fmt: skip
    assert found is not None
    assert found.lengths == (median(map(len, own)), median(map(len, theirs)))
    known = {token for row in own for token in row}
    assert found.unseen == pytest.approx(sum(t not in known for row in theirs for t in row) / sum(map(len, theirs)))
    alone = [t for at, row in enumerate(own) for t in row if not any(t in other for other in own[:at] + own[at + 1 :])]
    assert found.expected == pytest.approx(len(alone) / sum(map(len, own)))
    assert 0 < found.unseen < 1


@pytest.mark.parametrize(("train", "judged", "said"), [
    ((ENGLISH, 12), (ENGLISH, 12), []), ((ENGLISH, 24), (ENGLISH, 12), []),
    ((ENGLISH, 12), (GERMAN, 12), ["of the tokens of data.eval stand nowhere in data.train"]),
    ((ENGLISH, 12), (ENGLISH, 80), ["rows of data.eval have"]), ((ENGLISH, 80), (ENGLISH, 12), ["rows of data.eval"]),
    ((ENGLISH, 80), (GERMAN, 12), ["rows of data.eval have", "stand nowhere"]),
])  # fmt: skip
def test_another_language_and_another_length_are_told(
    made: Callable[..., Datasets], train: tuple[list[str], int], judged: tuple[list[str], int], said: list[str]
) -> None:
    found = between(made(rows(train[0], 60, train[1], 1), rows(judged[0], 40, judged[1], 2)))
    assert found is not None
    alarms = list(drifted({"eval": found}))
    assert [alarm.name for alarm in alarms] == ["train and eval differ"] * bool(said)
    assert all(text in alarms[0].said for text in said)


def test_few_rows_of_the_same_kind_have_new_tokens_by_chance(made: Callable[..., Datasets]) -> None:
    """Natural text, few rows: much of it is new, and as much is expected."""
    texts = [str(one["text"]) for _, one in zip(range(2 * FEWEST), stories("train"), strict=False)]
    tokenizer = train_tokenizer(texts, 4000)
    found = between(made(texts[:FEWEST], texts[FEWEST:], tokenizer))
    assert found is not None
    assert found.unseen > 0.05
    assert not list(drifted({"eval": found}))
    assert between(made(texts[: FEWEST - 1], texts[FEWEST:])) is None, "too few to say"


def test_of_very_many_rows_a_sample_over_all_of_them_is_looked_at(
    made: Callable[..., Datasets], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second half of the judged rows is of another language: half of the sample is."""
    datasets = made(rows(ENGLISH, 60, 12, 1), [*rows(ENGLISH, 60, 12, 2), *rows(GERMAN, 60, 12, 3)])
    whole = between(datasets)
    monkeypatch.setattr("distft.workers.drift.MOST", 40)
    sample = between(datasets)
    assert whole is not None
    assert sample is not None
    assert sample.unseen == pytest.approx(whole.unseen, abs=0.1)
    assert sample != whole
