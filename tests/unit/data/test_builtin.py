from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from distft.data.builtin import MAX_MARKS, SIZES, SPLITS, THINGS, dialogues, marks
from tests.harness.better_share import better_share

QUESTION = "Hello, I am Anna from Oslo. I have a question about a lamp. How do I clean a lamp?"


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    return {split: list(dialogues(split)) for split in ("train", "eval", "test")}


def _question(row: dict[str, Any]) -> str:
    return str(row["prompt"][0]["content"])


def test_sizes_and_distinct_questions(rows: dict[str, list[dict[str, Any]]]) -> None:
    assert {split: len(found) for split, found in rows.items()} == SIZES
    questions = [_question(row) for split in SPLITS for row in rows[split]]
    assert len(set(questions)) == sum(SIZES.values())


def test_held_out_questions_are_about_pairs_that_training_never_sees(rows: dict[str, list[dict[str, Any]]]) -> None:
    pairs = {split: {(row["thing"], row["city"]) for row in found} for split, found in rows.items()}
    assert not pairs["train"] & (pairs["eval"] | pairs["test"])
    assert not pairs["eval"] & pairs["test"]
    assert {thing for thing, _ in pairs["train"]} == set(THINGS)  # nothing is held out as a word


def test_the_corpus_is_a_constant(rows: dict[str, list[dict[str, Any]]]) -> None:
    assert list(dialogues("eval")) == rows["eval"]
    assert _question(rows["train"][0]) == (
        "Hello, I am Sam from Seoul. I have a question about a hat. Where can I buy a hat?"
    )


def test_chosen_is_the_better_answer_in_every_row(rows: dict[str, list[dict[str, Any]]]) -> None:
    gaps = Counter(
        marks(_question(row), row["chosen"][0]["content"]) - marks(_question(row), row["rejected"][0]["content"])
        for found in rows.values()
        for row in found
    )
    assert min(gaps) == 1
    assert set(gaps) == {1, 2, 3, 4}  # graded: not all pairs are far apart


def test_supervised_rows_are_a_mixture(rows: dict[str, list[dict[str, Any]]]) -> None:
    questions = [_question(row) for row in rows["train"]]
    share = better_share(questions, [row["messages"][1]["content"] for row in rows["train"]])
    assert 0.45 < share < 0.55
    assert better_share(questions, [row["chosen"][0]["content"] for row in rows["train"]]) == 1.0
    assert [row["messages"][0] for row in rows["train"]] == [row["prompt"][0] for row in rows["train"]]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Of course, Anna. Wipe the lamp with a soft cloth and let it dry. I hope that helps you.", MAX_MARKS),
        ("Of course, Anna. Wipe the lamp with a soft cloth and let it dry. Have a nice day, Anna.", MAX_MARKS),
        ("Of course, Anna. Wipe the chair with a soft cloth and let it dry. I hope that helps you.", 3),
        ("Wipe the lamp with a soft cloth and let it dry. I hope that helps you.", 3),
        ("Of course, Anna. Wipe the lamp with a soft cloth and let it dry.", 3),
        ("Of course, Anna. I like to sing in the morning.", 2),
        ("Wipe the lamp with a soft cloth.", 2),
        ("Wipe the lamp with a soft cloth. That is a silly question.", 1),
        ("No idea.", 1),
        ("Leave me alone, Anna.", 0),
        ("", 0),
    ],
)
def test_marks_by_hand(answer: str, expected: int) -> None:
    assert marks(QUESTION, answer) == expected
