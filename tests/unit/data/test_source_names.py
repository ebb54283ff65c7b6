"""A slip in a source's path is answered with what was meant, and is not asked of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.data.source_names import general_source, local_hint, require_hub_name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    for name in ("pairs.jsonl", "rows/train.parquet", "v1.notes"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("pairs.jsn", "pairs.jsonl"),
        ("pairs.json", "pairs.jsonl"),
        ("rows/train.parqet", "rows/train.parquet"),
        ("./pars.jsonl", "pairs.jsonl"),
        ("bultin:dialogs", "builtin:dialogues"),
        ("builtins:sums", "builtin:sums"),
    ],
)
def test_what_was_meant_is_named(here: Path, text: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        require_hub_name(text, ["dialogues", "sums"])
    assert caught.value.hint == f"did you mean {meant}?"
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("text", ["pairs", "imdb", "owner/pairs.v2", "v1.note", "owner/rows:part", "v1.5"])
def test_what_may_be_on_the_hub_is_left_to_it(here: Path, text: str) -> None:
    assert refused(text) == ""


def refused(text: str) -> str:
    """What is said against a name; "" where nothing is."""
    try:
        require_hub_name(text, ["dialogues", "sums"])
    except UserError as error:
        return str(error)
    return ""


def test_a_file_beside_is_named_where_the_hub_has_nothing(here: Path) -> None:
    assert local_hint("pairs") == "for a local file, did you mean pairs.jsonl?"
    assert local_hint("owner/pairs") == ""


def test_the_word_for_embedded_general_text(here: Path) -> None:
    assert general_source("builtin").path == "builtin:stories"
    assert general_source("pairs.jsonl").path == "pairs.jsonl"
    with pytest.raises(UserError, match="evaluation.general: .*\n  did you mean builtin\\?"):
        general_source("bultin")
    (here / "bultin").mkdir()
    assert general_source("bultin").path == "bultin"
