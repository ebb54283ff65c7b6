"""The embedded answers and whether they are rude."""

from __future__ import annotations

import pytest

from distft.data.builtin import SIZES, SPLITS, dialogues
from distft.data.manners import LABELS, manners


def test_one_answer_in_six_is_rude_and_none_is_without_its_question() -> None:
    for split in SPLITS:
        rows = list(manners(split))  # type: ignore[arg-type]
        assert len(rows) == 2 * SIZES[split]
        assert {row["label"] for row in rows} == set(LABELS)
        assert sum(row["label"] == "rude" for row in rows) / len(rows) == pytest.approx(1 / 6, abs=0.03)
        asked = [row["prompt"][0]["content"] for row in dialogues(split)]  # type: ignore[arg-type]
        assert [row["text"] for row in rows] == [question for question in asked for _ in range(2)]


def test_what_is_rude() -> None:
    rows = {row["text_pair"]: row["label"] for row in manners("eval")}
    assert rows["Why should I care?"] == "rude"
    assert rows["No idea."] == "polite"
