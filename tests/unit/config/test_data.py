"""Sources beside each other: their names, and what a share is of."""

from __future__ import annotations

import pytest

from distft.common.errors import UserError
from distft.config.data import Data, Source, source_names
from distft.config.load import load_recipe


def test_names_are_told_from_the_paths() -> None:
    paths = ["builtin:dialogues", "data/new rows.jsonl.gz", "org/some-set", "a/rows.csv", "b/rows.csv", "c/rows/"]
    found = source_names([Source(path=path) for path in paths] + [Source(path="x", name="mine")])
    assert found == ("dialogues", "new_rows", "some_set", "rows", "rows_2", "rows_3", "mine")


def test_a_name_that_is_said_stays_where_a_path_before_it_gives_the_same() -> None:
    found = source_names([Source(path="a/rows.csv"), Source(path="b.csv", name="rows"), Source(path="c/rows/")])
    assert found == ("rows_2", "rows", "rows_3")


def test_they_are_told_apart_where_there_are_several() -> None:
    one, other = Source(path="one.jsonl"), Source(path="other.jsonl")
    assert Data(train=(one, other), eval=(one,)).told_apart("train") == ("one", "other")
    assert Data(train=(one, other), eval=(one,)).told_apart("eval") == ()
    assert Data(train=(one, other)).told_apart("eval") == ("one", "other"), "what holdout splits off"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["data.train=[{path: a.jsonl, share: 0.5}]"], r"data.train.*every source has a share"),
        (
            ["data.train=[{path: a.jsonl}, {path: b.jsonl, share: 0.5, weight: 2}]"],
            r"data.train.1.weight.*beside share",
        ),
        (["data.train=[{path: a}, {path: b, share: 0.5}, {path: c, share: 0.6}]"], r"shares of 1.1 leave nothing"),
        (["data.eval=[{path: a.jsonl, share: 0.5}]"], r"data.eval.0.share.*no effect"),
        (["data.train=[{path: a.jsonl, name: x}, {path: b.jsonl, name: x}]"], r"data.train.1.name.*x is another"),
        (["data.train=[{path: a.jsonl, name: a/b}]"], r"data.train.0.name"),
    ],
)
def test_what_does_not_go_together_is_refused(keys: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("sft-tiny", keys)
