"""A run's W&B files, read by W&B's own reader."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from distft.tracking.wandb_files import records, run_files


def of_type(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """The records of a type, of all starts of the run."""
    found = [record for path in run_files(run_dir) for record in _read(path, path.stat().st_size)]
    return [record[kind] for record in found if record["type"] == kind]


@cache
def _read(path: Path, size: int) -> list[dict[str, Any]]:
    """Once, until it has grown."""
    del size
    return list(records(path))


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of the history."""
    return [record["item"] for record in of_type(run_dir, "history")]


def steps(run_dir: Path, kind: str) -> list[int]:
    """The steps of the rows that have something of a kind: ``train``, ``eval`` or ``completions``."""
    return [row["step"] for row in rows(run_dir) if any(name.startswith((f"{kind}/", f"{kind}.")) for name in row)]


def table(run_dir: Path) -> list[list[Any]]:
    """The rows of all parts of the table ``completions``, each once."""
    parts = [json.loads(path.read_text()) for path in sorted(run_dir.glob("wandb/*run-*/files/media/table/*.json"))]
    assert {tuple(part["columns"]) for part in parts} == {("step", "prompt", "completion", "score")}
    return list(map(list, dict.fromkeys(tuple(row) for part in parts for row in part["data"])))


def assert_each_step_once(run_dir: Path, metrics: list[dict[str, Any]]) -> None:
    """Every line of metrics.jsonl has one row, with its numbers, whatever was done twice."""
    ids = {path.stem for path in run_files(run_dir)}
    assert len(ids) == 1, "all starts are one run"
    for split in ("train", "eval"):
        done = [line for line in metrics if line["split"] == split]
        assert Counter(steps(run_dir, split)) == Counter(line["step"] for line in done)
        there = {row["step"]: row for row in rows(run_dir)}
        for line in done:
            for name in ("num_tokens", "objective/kl", "loss"):
                if name in line:
                    assert there[line["step"]][f"{split}/{name}"] == line[name]
