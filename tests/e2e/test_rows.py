"""Rows on their way into a run: an epoch is an epoch, changed rows are noticed, tokenised ones are kept and shared."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from distft.data.store import BESIDE, ROWS
from tests.e2e.conftest import TINY, Start, checkpoints, lines, ppo

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

NUM_ROWS = 50_000  # six chunks and a rest
OWN = (
    "train", "sft-tiny", *TINY, "placement.policy.ranks=1", "data.train=[{path: rows.jsonl}]", "data.eval=[]",
    "data.test=[]", "evaluation.every=0", "tracking.wandb.mode=disabled", "recovery.max_restarts=0",
)  # fmt: skip


def write(path: Path, count: int, word: str = "red") -> None:
    rows = ({"prompt": f"What is {word} {number}?", "completion": f" A colour, number {number}."}
            for number in range(count))  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def steps(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines(folder, "metrics") if line["split"] == "train"]


def test_an_epoch_of_six_rows_is_six_rows_and_other_rows_are_refused_when_it_goes_on(
    tmp_path: Path, start: Start
) -> None:
    write(tmp_path / "rows.jsonl", 6)
    batch = "train.global_batch_size=64"
    verb = start(*OWN, batch, "train.epochs=2")
    assert verb.end() == 0, verb.output
    assert [line["epoch"] for line in steps(verb.folder)] == [1.0, 2.0]
    tokens = [line["num_tokens"] for line in steps(verb.folder)]
    assert tokens[1] == 2 * tokens[0], "both epochs have the same rows"
    write(tmp_path / "rows.jsonl", 6, "blue")
    longer = (*OWN, batch, "train.epochs=3")
    refused = start(*longer)
    assert refused.end() == 2, refused.output
    assert (
        "data.train.0.path: rows.jsonl is not what it was when the checkpoint of step 2 was written" in refused.output
    )
    assert "starting workers" not in refused.output
    refused.assert_nothing_left()
    accepted = start(*longer, "checkpoint.changed_data=accept")
    assert accepted.end() == 0, accepted.output
    assert [line["epoch"] for line in steps(accepted.folder)] == [1.0, 2.0, 3.0]
    assert checkpoints(accepted.folder)[-1] == 3


def test_the_last_prompts_of_an_epoch_are_a_smaller_iteration(sft: Path, start: Start) -> None:
    """Two prompts, fewer than an update has minibatches."""
    words = [word for word in ppo(sft) if not word.startswith(("train.steps", "data.train.0.limit"))]
    verb = start(*words, "train.epochs=2", "data.train.0.limit=10", "algorithm.minibatches=4")
    assert verb.end() == 0, verb.output
    assert [line["epoch"] for line in steps(verb.folder)] == [0.8, 1.0, 1.8, 2.0]


def test_killed_while_it_tokenises_and_then_two_at_once(tmp_path: Path, start: Start) -> None:
    write(tmp_path / "rows.jsonl", NUM_ROWS)
    store = tmp_path / BESIDE
    words = (*OWN, "train.steps=2", "train.global_batch_size=8", "data.num_workers=2", "optimizer.warmup_steps=0")

    def chunks() -> list[Path]:
        return sorted(store.glob("*/chunk-*.arrow"))

    killed = start(*words)
    killed.wait_for(lambda: len(chunks()) >= 3, "three chunks")
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.end()
    killed.assert_nothing_left(60)
    before = {path: path.stat().st_mtime_ns for path in chunks()}
    assert len(before) >= 3
    one, other = start(*words), start(*words, folder="other")
    one.wait_for(lambda: len(chunks()) > len(before), "another chunk")
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was done is not done again"
    for verb in (one, other):
        assert verb.end(600) == 0, verb.output
    assert [path.name for path in store.glob("*/*.arrow")] == [ROWS]
    said = one.output + other.output
    assert "tokenising rows.jsonl: " in said
    assert "waiting for rows.jsonl: process " in said
    assert [line["loss"] for line in steps(one.folder)] == [line["loss"] for line in steps(other.folder)]
    again = start(*words, "train.steps=3")
    assert again.end() == 0, again.output
    assert "tokenising" not in again.output
