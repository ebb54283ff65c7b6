"""``grpo-tiny`` as a user runs it: by a rule alone a policy learns to add numbers that it never saw together."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distft.data.sums import slips, sums

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]


def train(recipe: str, folder: Path, seed: int, *overrides: str) -> dict[str, dict[str, float]]:
    """A run's table: metrics before and after by name."""
    started = time.monotonic()
    command = [sys.executable, "-m", "distft", "train", recipe, f"output_dir={folder}", f"seed={seed}", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"\n{recipe}, seed {seed}: {time.monotonic() - started:.0f} s")
    table: dict[str, dict[str, float]] = json.loads((folder / "before_after.json").read_text())["metrics"]
    return table


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_exact_match_rises_on_sums_never_seen(tmp_path: Path, seed: int) -> None:
    learned_from = {row["prompt"] for rows in (slips, sums) for row in rows("train")}
    assert not learned_from & {row["prompt"] for row in sums("test")}
    train("sums-sft", tmp_path / "sft", seed)
    table = train("grpo-tiny", tmp_path / "grpo", seed, f"models.policy.path=run:{tmp_path / 'sft'}")
    exact = table["rewards/exact_match"]
    print(f"exact match of SFT alone {exact['before']:.3f}, after GRPO {exact['after']:.3f}")
    assert '"alarm"' not in (tmp_path / "grpo" / "events.jsonl").read_text()
    assert 0 < exact["before"] < 0.1
    assert exact["after"] >= 0.6
