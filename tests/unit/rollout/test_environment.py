"""Environments are held to their answers: one message that names environment, sample and turn."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distft.common.errors import UserError
from distft.rollout.environment import OfClass, Step, Turn

SOURCE = """
import sqlite3
import threading

class Told:
    def __init__(self, answer=("go on", 0.5, False), begin=None):
        self.answer, self.begin = answer, begin

    def reset(self, row):
        if isinstance(self.begin, Exception):
            raise self.begin
        self.row = row
        return self.begin

    def step(self, text):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

class Hanging(Told):
    def step(self, text):
        threading.Event().wait()

class Bound(Told):
    # as sqlite3's objects are, to their thread

    def __init__(self):
        self.rows = sqlite3.connect(":memory:")
        self.rows.execute("create table heard (text)")

    def reset(self, row):
        self.rows.execute("insert into heard values (?)", (row["prompt"],))

    def step(self, text):
        self.rows.execute("insert into heard values (?)", (text,))
        heard = " ".join(text for (text,) in self.rows.execute("select text from heard"))
        return heard, 0.0, False

class Stepless:
    def reset(self, row): ...

NUMBER = 3
"""


@pytest.fixture
def place(tmp_path: Path) -> str:
    (tmp_path / "told.py").write_text(SOURCE)
    return str(tmp_path / "told.py")


SAMPLE = "a.jsonl:3, sample 1"


def step(place: str, answer: Any) -> Step:
    asked = OfClass(f"{place}:Told", {"answer": answer}, 30)
    (found,) = asked.steps([Turn(asked.begin({"prompt": "p"}, SAMPLE), "text", SAMPLE, 2)])
    return found


@pytest.mark.parametrize(
    ("answer", "found"),
    [(("go on", 0.5, False), Step("go on", 0.5, False)), (("", -1, False), Step("", -1.0, False)),
     ((None, 1, True), Step("", 1.0, True)), (("unread", np.float32(0.25), True), Step("", 0.25, True))],
)  # fmt: skip
def test_right_answers(place: str, answer: Any, found: Step) -> None:
    assert step(place, answer) == found


@pytest.mark.parametrize(
    ("answer", "message"),
    [(None, "answered None"), (("text", 1.0), "answered \\('text', 1.0\\)"),
     (("text", float("nan"), False), "reward is nan"),
     (("text", True, False), "reward is True"), (("text", 10**400, False), "reward is 1000"),
     (("text", 1.0, 1), "done is 1"), ((None, 1.0, False), "observation is None"),
     ((b"text", 1.0, False), "observation is b'text'"), (("text", 1e39, False), "reward is 1e\\+39"),
     (("text", np.array([1.0, 2.0]), True), "reward is array\\(\\[1., 2.\\]\\)"),
     (KeyError("oops"), "raised KeyError: 'oops'"), (SystemExit(3), "raised SystemExit: 3"),
     (TimeoutError("its own"), "raised TimeoutError: its own")],
)  # fmt: skip
def test_wrong_answers_name_environment_sample_and_turn(place: str, answer: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        step(place, answer)
    assert caught.value.where == f"environment {place}:Told, {SAMPLE}, turn 2"


@pytest.mark.parametrize(
    ("begin", "message"), [("hello", "answered something"), (ValueError("no"), "raised ValueError")]
)
def test_a_reset_answers_nothing(place: str, begin: Any, message: str) -> None:
    asked = OfClass(f"{place}:Told", {"begin": begin}, 30)
    with pytest.raises(UserError, match=message) as caught:
        asked.begin({}, SAMPLE)
    assert caught.value.where == f"environment {place}:Told, {SAMPLE}, reset"


def test_a_step_that_hangs_is_given_up(place: str) -> None:
    asked = OfClass(f"{place}:Hanging", {}, 30)
    turn = Turn(asked.begin({}, SAMPLE), "text", SAMPLE, 1)
    asked._deadline_s = 1.0  # of the step alone: a busy machine may take long to make and reset one
    with pytest.raises(UserError, match="not answered within 1 s") as caught:
        asked.steps([turn])
    assert caught.value.where == f"environment {place}:Hanging, {SAMPLE}, turn 1"
    assert "step_deadline_s" in str(caught.value.hint)
    hanging = [one.daemon for one in threading.enumerate() if one.name == "environment"]
    assert hanging
    assert all(hanging), "the process can end"


def test_what_is_bound_to_a_thread_is_made_and_asked_in_one(place: str) -> None:
    asked = OfClass(f"{place}:Bound", {}, 30)
    samples = [asked.begin({"prompt": prompt}, SAMPLE) for prompt in ("one", "two")]
    found = [[step.observation for step in asked.steps([Turn(one, text, SAMPLE, number) for one in samples])]
             for number, text in enumerate(("first", "then"), 1)]  # fmt: skip
    assert found == [["one first", "two first"], ["one first then", "two first then"]]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [("Told", {"answr": 1}, "answr"), ("Stepless", {}, "has no method step"), ("Tod", {}, "has no Tod"),
     ("NUMBER", {}, "not callable")],
)  # fmt: skip
def test_what_cannot_be_made_is_said_at_the_start(
    place: str, name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        OfClass(f"{place}:{name}", arguments, 30)
