"""What goes wrong in real runs in a known way is told, with what to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from distft.data.builtin import dialogues
from tests.e2e.conftest import Start, events, lines

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]
LETTERS = """
def letters(prompts, completions, **columns):
    return [completion.count("e") / 10 for completion in completions]
"""


def told(folder: Path) -> dict[str, dict[str, Any]]:
    """The alarms by name; each is told once."""
    found = events(folder, "alarm")
    assert len({one["name"] for one in found}) == len(found)
    assert all(one["do"] and one["said"] for one in found)
    return {one["name"]: one for one in found}


def test_of_rows_that_imitation_learns_and_does_not_learn(start: Start, tmp_path: Path) -> None:
    """Pairs whose rejected answers are of the chosen ones' kind, a held-out source that says what training never says,
    and a test list in other letters."""
    rows = [(row["prompt"][0]["content"], row["chosen"][0]["content"]) for row in islice(dialogues("train"), 240)]
    pairs = [
        {"prompt": asked, "chosen": said, "rejected": rows[at - 1][1]}
        for at, (asked, said) in enumerate(rows)
        if said != rows[at - 1][1]
    ]
    kept(tmp_path / "train.jsonl", pairs[40:])
    kept(tmp_path / "pairs.jsonl", pairs[:40])
    kept(tmp_path / "odd.jsonl", [{"prompt": one["prompt"], "completion": "42 37 99 " * 3} for one in pairs[:40]])
    kept(tmp_path / "test.jsonl", [{"prompt": "何ですか", "completion": f"猫が{at}匹"} for at in range(40)])
    lists = {"train": ["train"], "eval": ["pairs", "odd"], "test": ["test"]}
    sources = {name: ", ".join(f"{{path: {tmp_path}/{one}.jsonl}}" for one in of) for name, of in lists.items()}
    verb = start(
        "train", "sft-tiny", "models.policy.init.hidden_size=64", "train.steps=80", "evaluation.every=20",
        "tracking.samples_every=0", "data.on_leak=warn",
        *(f"data.{name}=[{of}]" for name, of in sources.items()),
    )  # fmt: skip
    assert verb.end(600) == 0, verb.output
    found = told(verb.folder)
    assert {"train and eval differ", "rejected answers are learned", "train and eval drift apart"} <= found.keys()
    said = found["train and eval differ"]["said"]
    assert all(f"of the tokens of data.{name} stand nowhere in data.train" in said for name in ("eval", "test"))
    assert "rose that of odd to" in found["train and eval drift apart"]["said"]
    judged = [line["val/rejected_loss"] for line in lines(verb.folder, "metrics") if line["split"] == "eval"]
    assert judged[0] > 2 * judged[-1]
    assert all(f"alarm at step {one['step']}: {name}: " in verb.output for name, one in found.items())
    page = (verb.folder / "report.html").read_text(encoding="utf-8")
    assert all(f"{name} at step" in page for name in found)


def test_of_a_reward_that_wants_the_same_letter_again_and_again(start: Start, tmp_path: Path) -> None:
    (tmp_path / "letters_of_test.py").write_text(LETTERS)
    verb = start(
        "train", "grpo-tiny", "models.reward.functions=[letters_of_test:letters]", "optimizer.learning_rate=3e-3",
        "rollout.max_new_tokens=16", "data.max_length=28", "train.steps=40", "evaluation.every=0",
        PYTHONPATH=f"{tmp_path}:{Path(__file__).resolve().parents[2]}",
    )  # fmt: skip
    assert verb.end(600) == 0, verb.output
    found = told(verb.folder)
    assert {"repetition", "reward hacking?"} <= found.keys()
    assert "what they repeat from" in found["reward hacking?"]["said"]


def kept(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
