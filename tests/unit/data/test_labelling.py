"""Files of labellers: what a page saved is read; what none saved is named by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distft.common.errors import UserError
from distft.data.formats import Message
from distft.data.labelling import Item, collection_name, read_labels

LINE: dict[str, Any] = {
    "format": 1, "collection": "c", "labeller": "Ana", "item": 0, "criterion": "?", "prompt": "Which?",
    "completions": ["one", "two"], "ranks": [2, 1], "ratings": None, "corrections": None,
}  # fmt: skip


def write(path: Path, *lines: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(LINE | line) + "\n" for line in lines))
    return str(path)


def test_files_of_two_are_read_by_item(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Which?"}]
    ana = write(tmp_path / "ana.jsonl", {"item": 1, "prompt": turns}, {"ratings": [5, 1]})
    ben = write(tmp_path / "ben.jsonl", {"labeller": " Ben ", "ranks": None, "corrections": [None, "TWO"]})
    first, second, third = read_labels([ana, ben, ana])  # the same file twice is one
    assert [(one.number, one.labeller) for one in (first, second, third)] == [(0, "Ana"), (0, "Ben"), (1, "Ana")]
    assert (first.ranks, first.ratings, second.corrections) == ((2, 1), (5, 1), (None, "TWO"))
    assert third.item == Item((Message("user", "Which?"),), ("one", "two"))
    assert first.where == f"{ana}:2"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"ranks": [1]}, "`ranks` is [1], not 2 whole numbers from 1 to 2"),
        ({"ranks": [0, 1]}, "`ranks` is [0, 1], not"),
        ({"ranks": [True, 1]}, "`ranks` is [True, 1], not"),
        ({"ratings": [6, 1]}, "not 2 whole numbers from 1 to 5"),
        ({"corrections": ["x"]}, "not 2 texts or nulls"),
        ({"labeller": " "}, "`labeller` is not a name"),
        ({"item": "0"}, "`item` is not the number"),
        ({"prompt": ""}, "`prompt` is neither"),
        ({"completions": [1, 2]}, "`completions` is not a list of texts"),
        ({"format": 2}, "is of another version (`format` is 2, not 1)"),
        ({"collection": "d"}, "is of another collection than"),
        ({"ranks": [1, 2]}, "Ana says something else of this item in"),
        ({"labeller": "Ben", "completions": ["one", "2"]}, "item 0 has other texts than in"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, line: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "labels.jsonl", {}, line)
    with pytest.raises(UserError) as raised:
        read_labels([path])
    assert raised.value.where == f"{path}:2"
    assert said in str(raised.value)


def test_a_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    with pytest.raises(UserError, match="no labelling page wrote this line"):
        read_labels([str(path)])


def test_a_collection_is_known_by_what_is_asked() -> None:
    items = [Item("Which?", ("one", "two"))]
    assert collection_name(items, "?", ["rank"]) == collection_name(list(items), "?", ["rank"])
    others = [
        collection_name(items, "!", ["rank"]),
        collection_name(items, "?", ["rate"]),
        collection_name([], "?", []),
    ]
    assert len({collection_name(items, "?", ["rank"]), *others}) == 4
