"""A step's samples in a folder of their own: whole, in the place of a former one, tensors and JSON only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from distft.batches import Batch, Ragged
from distft.workers.kept_batch import read_batch
from distft.workers.kept_step import write_step
from distft.workers.reports import StepRows


def test_a_later_one_takes_the_place_of_the_former(tmp_path: Path) -> None:
    folder = tmp_path / "failed_steps" / "step_00000003"
    prompts = Batch({"prompt_ids": Ragged.of([[5, 6], [7]], np.int32), "sample": np.array([0, 1])})
    write_step(folder, prompts, StepRows(3, start=8, count=2), ["a.jsonl:9", "a.jsonl:4"], seed=11)
    both = prompts.with_columns(response_ids=Ragged.of([[1], [2, 3]], np.int32))
    write_step(folder, both, StepRows(3, start=8, count=2), ["a.jsonl:9", "a.jsonl:4"], seed=11)
    assert sorted(path.name for path in folder.iterdir()) == ["batch.safetensors", "rows.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["step_00000003"], "no draft is left"
    found = read_batch(folder / "batch.safetensors")
    assert [found.ragged("response_ids")[row].tolist() for row in range(2)] == [[1], [2, 3]]
    assert json.loads((folder / "rows.json").read_text()) == {
        "format": 1, "step": 3, "start": 8, "count": 2, "seed": 11, "rows": ["a.jsonl:9", "a.jsonl:4"],
    }  # fmt: skip
