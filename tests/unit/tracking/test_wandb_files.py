"""What is read back of a W&B run's files, some of which are damaged."""

from __future__ import annotations

import json
from pathlib import Path

from distft.tracking.metrics import SAMPLES
from distft.tracking.wandb_files import kept_samples


def test_lines_that_are_no_samples_are_left_out(tmp_path: Path) -> None:
    good = [{"step": n, "prompt": "p", "completion": "c", "score": 0.5} for n in (1, 1, 2, 3)]
    bad = ["[1]", "{}", "[" * 100_000, '{"step": "x", "prompt": "p", "completion": "c"}', '{"step": 1, "pro']
    (tmp_path / SAMPLES).write_text("\n".join([json.dumps(good[0]), *bad, *map(json.dumps, good[1:])]))
    assert kept_samples(tmp_path, 2) == [(1, "p", "c", 0.5), (2, "p", "c", 0.5)]
    assert kept_samples(tmp_path, -1) == []
