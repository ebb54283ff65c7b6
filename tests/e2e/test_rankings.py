"""A reward model from rankings of two, three and four answers: it learns, is judged by `eval`, and a killed run ends as
an undisturbed one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.data.builtin import dialogues, marks
from tests.e2e.conftest import SMALL, TINY, Start, computed, lines
from tests.e2e.test_resume import assert_same, disturb, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


def write_rankings(path: Path, split: str, count: int) -> None:
    """Answers of the embedded corpus with what they are worth by its own rules; a fourth, empty one in some."""
    rows: list[str] = []
    for row in dialogues("train" if split == "train" else "eval"):
        question = row["prompt"][0]["content"]
        answers = [row[name][-1]["content"] for name in ("chosen", "rejected", "messages")]
        answers = [*dict.fromkeys([*answers[: 2 + len(rows) % 2], *[""] * (len(rows) % 3 == 0)])]
        ranks = [-marks(question, answer) for answer in answers]
        if len(set(ranks)) > 1:
            rows.append(json.dumps({"prompt": question, "completions": answers, "ranks": ranks}))
        if len(rows) == count:
            break
    path.write_text("\n".join(rows))


def reward(folder: Path, *more: str) -> tuple[str, ...]:
    """The words of a run on two ranks, of rows that are written into the folder."""
    for split, count in (("train", 400), ("eval", 60)):
        write_rankings(folder / f"{split}.jsonl", split, count)
    init = [word.replace("models.policy.", "models.reward.") for word in TINY]
    short = [word for word in SMALL if not word.startswith("data.")]
    return (
        "train", "reward-tiny", *init, *short, "algorithm.max_answers=4", "data.train=[{path: train.jsonl}]",
        "data.eval=[{path: eval.jsonl}]", "data.test=[]", "placement.reward.ranks=2", *more,
    )  # fmt: skip


def test_killed_in_the_middle_of_a_step(tmp_path: Path, start: Start) -> None:
    words = reward(tmp_path)
    undisturbed = run(start, *words, folder="undisturbed")
    assert_same(disturb(start, words, "Rankings", worker="reward-1"), undisturbed)


def test_it_learns_and_eval_says_what_the_run_said(tmp_path: Path, start: Start) -> None:
    long = ("train.steps=60", "evaluation.every=60", "evaluation.max_samples=60", "train.global_batch_size=16")
    words = reward(tmp_path, *long)
    folder = run(start, *words, folder="run")
    first, last = (line for line in computed(folder) if line["split"] == "eval")
    assert last["accuracy"] > max(0.75, first["accuracy"])
    assert last["loss"] < first["loss"]
    sides = {line["side"] for line in lines(folder, "samples")}
    assert {"chosen", "answer 1 of 3, rank 1"} <= sides
    verb = start("eval", f"run:{folder}", "--json", folder="eval")
    assert verb.end() == 0, verb.output
    [found] = [json.loads(line) for line in verb.output.splitlines() if line.startswith("{")][:1]
    said = json.dumps(found)
    assert f"{last['accuracy']:.4f}"[:5] in said


def test_wrong_rows_end_with_one_message(tmp_path: Path, start: Start) -> None:
    words = reward(tmp_path, "algorithm.max_answers=2")
    for more in ([], ["--dry-run"]):
        verb = start(*words, *more, folder="wrong")
        assert verb.end() == 2, verb.output
        assert "algorithm.max_answers is 2" in verb.output
        assert "algorithm.max_answers=4" in verb.output
        assert "Traceback" not in verb.output
