"""Tokens and positions of a model: what is written in its config.json is what AutoConfig says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from distft.models.limits import embedding_rows, learned_positions
from distft.planning.positions import position_limit
from tests.unit.models import families


@pytest.mark.parametrize("family", families.families("llama", "gpt2"))
def test_they_are_those_of_auto_config(tmp_path: Path, family: str) -> None:
    folder = families.write_family(tmp_path, family)
    config = AutoConfig.from_pretrained(folder)
    assert embedding_rows(folder) == config.get_text_config().vocab_size
    assert learned_positions(folder) == position_limit(config.to_dict())


@pytest.mark.parametrize(
    ("written", "rows", "positions"),
    [
        ({"model_type": "gpt2"}, 50257, 1024),  # by default
        ({"model_type": "llama", "vocab_size": 7}, 7, None),
        ({"model_type": "gemma3", "vocab_size": 7, "text_config": {"vocab_size": 9}}, 9, None),
        ({"model_type": "nobodys", "vocab_size": 7}, 7, None),
        ({}, None, None),
    ],
)
def test_where_it_is_not_written_auto_config_says_it(
    tmp_path: Path, written: dict[str, object], rows: int | None, positions: int | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert (embedding_rows(str(tmp_path)), learned_positions(str(tmp_path))) == (rows, positions)


def test_nothing_is_known_of_what_is_not_there(tmp_path: Path) -> None:
    assert (embedding_rows(str(tmp_path / "none")), learned_positions(str(tmp_path / "none"))) == (None, None)
