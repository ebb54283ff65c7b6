from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from distft.common.errors import UserError
from distft.config.data import Source
from distft.data.class_labels import labels_in, numbers_of

Write = Callable[..., str]


def _rows(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]


def test_the_labels_of_the_data_in_their_order(write: Write) -> None:
    assert labels_in([Source(path=write(_rows("cow", "ant", "cow", "bee")))]) == ("ant", "bee", "cow")
    assert labels_in([Source(path=write(_rows(10, 9, 2.0, "1")))]) == ("1", "2", "9", "10")
    both = [Source(path=write(_rows("b", "b"), "one.jsonl")), Source(path=write(_rows("a"), "two.jsonl"))]
    assert labels_in(both) == ("a", "b")
    renamed = write([{"sentence": "x", "mood": "sad"}, {"sentence": "y", "mood": "gay"}], "three.jsonl")
    assert labels_in([Source(path=renamed, columns={"sentence": "text", "mood": "label"})]) == ("gay", "sad")


def test_what_names_no_classes_is_refused(write: Write) -> None:
    with pytest.raises(UserError, match="has the one label a"):
        labels_in([Source(path=write(_rows("a", "a")))])
    with pytest.raises(UserError, match="has no labels"):
        labels_in([Source(path=write([{"text": "x"}]))])
    with pytest.raises(UserError, match="more than 1000 different values"):
        labels_in([Source(path=write(_rows(*range(1002))))])


def test_numbers_of_names() -> None:
    labels = ("bad", "good")
    assert numbers_of(["good", "bad", "1", "0"], labels).tolist() == [1, 0, 1, 0]
    assert numbers_of(["2", "0"], ("0", "2")).tolist() == [1, 0]  # they are names there
    with pytest.raises(UserError, match=r"(?s)label goood.*did you mean good"):
        numbers_of(["goood"], labels)
    for other in ("2", "ugly", None):
        with pytest.raises(UserError, match="the labels are bad, good"):
            numbers_of([other], labels)
