"""What is held out of few rows is known before anything is started, and is what the data worker holds out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from distft.common.errors import UserError
from distft.config.recipe import Recipe
from distft.data.builtin import dialogues
from distft.data.dataset import load_datasets
from distft.data.tokenizer_training import train_tokenizer
from distft.launch.preflight import held_out_rows
from distft.launch.preflight.held_out_rows import check_held_out
from tests.unit.launch.examples import recipe


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer((row["messages"][0]["content"] for row in dialogues("eval")), 600)


def of_rows(tmp_path: Path, number: int, **data: Any) -> Recipe:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i}?", "completion": f"{i}!"}) + "\n" for i in range(number)))
    return recipe("sft", {"data": {"train": [{"path": str(path)}], **data}})


@pytest.mark.parametrize("number", range(1, 12))
@pytest.mark.parametrize("holdout", [0.1, 0.3])
def test_it_says_what_the_data_worker_would(
    number: int, holdout: float, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    wanted = of_rows(tmp_path, number, holdout=holdout)

    def said(of: Any, *words: Any) -> str:
        try:
            of(*words)
        except UserError as error:
            return str(error)
        return ""

    found = said(load_datasets, wanted.data, "sft", tokenizer)
    assert said(check_held_out, wanted) == (found if "is held out for it" in found else "")


def test_the_data_worker_has_the_last_word_on_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out_rows, "MOST_ROWS", 3)
    check_held_out(of_rows(tmp_path, 3, holdout=0.001))
    with pytest.raises(UserError, match=r"data.eval: no row of data.train is held out for it"):
        check_held_out(of_rows(tmp_path, 2, holdout=0.001))


def test_a_list_with_rows_of_its_own_needs_none(tmp_path: Path) -> None:
    check_held_out(of_rows(tmp_path, 3))
    with pytest.raises(UserError, match=r"data.test: no row of data.train is held out for it"):
        check_held_out(of_rows(tmp_path, 3, holdout=0.001, eval=[{"path": "builtin:dialogues"}]))
