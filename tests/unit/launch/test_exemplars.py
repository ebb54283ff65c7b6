"""Answered rows before a prompt, none of which a judged row has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.data import Source
from distft.data.formats import CompletionExample, Message
from distft.launch.exemplars import Exemplar, draw_exemplars, first_answer, with_exemplars

ONE, TWO = Exemplar("1 + 1 =", " 2", "a"), Exemplar("2 + 2 =", "4", "b")


def source(path: Path, *rows: dict[str, object]) -> Source:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(path=str(path))


def test_plain_ones_stand_one_after_the_other() -> None:
    assert with_exemplars("3 + 3 =", [ONE, TWO]) == "1 + 1 = 2\n\n2 + 2 = 4\n\n3 + 3 ="
    assert with_exemplars("3 + 3 =", []) == "3 + 3 ="
    assert first_answer(" 6\n\n4 + 4 = 8") == " 6"
    assert first_answer("\n\n6") == "6"


def test_turns_stand_behind_what_the_system_says() -> None:
    asked = (Message("system", "Add."), Message("user", "3 + 3"))
    shown = Exemplar((Message("system", "Other."), Message("user", "1 + 1")), "2", "a")
    assert with_exemplars(asked, [shown]) == (
        Message("system", "Add."), Message("user", "1 + 1"), Message("assistant", "2"), Message("user", "3 + 3"),
    )  # fmt: skip
    with pytest.raises(UserError, match="plain text, the judged rows are conversations"):
        with_exemplars(asked, [ONE])
    with pytest.raises(UserError, match="a conversation, the judged rows are plain text"):
        with_exemplars("3 + 3 =", [shown])


def test_no_exemplar_is_a_judged_row_whatever_the_seed(tmp_path: Path) -> None:
    """Neither its question, in other letters and spaces, nor a dialogue that holds it with its answer."""
    free = [{"prompt": f"free {n}?", "completion": f"answer {n}"} for n in range(5)]
    planted = [{"prompt": " SECRET  0?", "completion": "hidden 0"}, {"prompt": "secret 1?", "completion": "other"}]
    train = source(tmp_path / "train.jsonl", *free, *planted)
    said = ["Before?", "Yes.", "secret 1?", "hidden 1", "After?", "No."]
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
    dialogue = source(tmp_path / "dialogue.jsonl", {"messages": turns})
    judged = [CompletionExample(f"secret {n}?", f"hidden {n}") for n in range(2)]
    for seed in range(20):
        drawn = draw_exemplars([train, dialogue], judged, 5, seed)
        assert sorted(str(one.prompt) for one in drawn) == [f"free {n}?" for n in range(5)]
    assert draw_exemplars([train], judged, 2, 7) == draw_exemplars([train], judged, 4, 7)[:2]
    assert draw_exemplars([train], judged, 5, 7) != draw_exemplars([train], judged, 5, 8)
    with pytest.raises(UserError, match="5 rows of training have a prompt and an answer that no judged") as told:
        draw_exemplars([train], judged, 6, 1)
    assert told.value.hint.startswith("--shots 5")
