"""Seconds of an iteration that samples ahead (``rollout.overlap: 1``) beside one that takes turns.

    python -m tests.benchmarks.overlap [--repeats 3] [--steps 8]

GRPO of a Llama of 5 M parameters, one policy rank and one vLLM engine, every response of all its tokens. Once pinned,
generation to one core and everything else to another, as if each had a device of its own; once on all cores. Medians
over the iterations and alternating runs, as a table (Markdown).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

RECIPE: dict[str, Any] = {
    "format": 1, "name": "overlap", "output_dir": "given", "seed": 1,
    "algorithm": {"kind": "grpo", "kl_coef": 0.0, "importance_cap": 2.0, "minibatches": 2, "epochs": 2},
    "models": {
        "policy": {
            "init": {"architecture": "llama", "hidden_size": 256, "num_layers": 6, "num_heads": 4, "vocab_size": 2048,
                     "max_positions": 256},
            "dtype": "float32",
        },
        "reward": {"functions": ["tests.harness.rules:letters_e"]},
    },
    "placement": {"policy": {"ranks": 1}, "rollout": {"ranks": 1}},
    "data": {"train": [{"path": "builtin:dialogues"}], "max_length": 160, "max_prompt_length": 64},
    "train": {"global_batch_size": 16, "max_tokens_per_rank": 4096},
    "rollout": {"engine": "vllm", "max_new_tokens": 64, "min_new_tokens": 64, "samples_per_prompt": 4},
    "checkpoint": {"every": 1000}, "evaluation": {"max_samples": 1}, "tracking": {"samples_every": 0},
}  # fmt: skip
WARM_UP = 2  # iterations


def ready_workers(folder: Path) -> dict[str, list[int]]:
    """The processes of every group that has said that it is ready."""
    path = folder / "events.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {
        event["role"]: [worker["pid"] for worker in event["workers"]]
        for event in found if event["event"] == "group_ready"
    }  # fmt: skip


def pin(pids: Sequence[int], core: int) -> None:
    """All threads of these processes to one core."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), {core})


def run(recipe: Path, folder: Path, overlap: int, steps: int, *, pinned: bool) -> list[float]:
    """Seconds of the iterations after the first ones."""
    words = [f"output_dir={folder}", f"rollout.overlap={overlap}", f"train.steps={steps}"]
    with subprocess.Popen(
        [sys.executable, "-m", "distft.cli", "train", str(recipe), *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        roles = {"policy", "reference", "rollout", "data"}
        while pinned and process.poll() is None and not roles <= set(workers := ready_workers(folder)):
            time.sleep(0.05)
        for role, pids in workers.items() if pinned else ():
            pin(pids, int(role == "rollout"))
        _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors[-3000:])
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    ends = [line["time"] for line in lines if line["split"] == "train"]
    return [later - former for former, later in zip(ends[WARM_UP:], ends[WARM_UP + 1 :], strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    told = parser.parse_args()
    print("| | in turns, s | ahead, s | ratio |", "|---|---|---|---|", sep="\n")
    with tempfile.TemporaryDirectory(prefix="distft-") as name:
        recipe = Path(name) / "recipe.yaml"
        recipe.write_text(json.dumps(RECIPE))
        for pinned in (True, False):
            seconds: dict[int, list[float]] = {0: [], 1: []}
            for repeat in range(told.repeats):
                for overlap, found in seconds.items():
                    folder = Path(name) / f"{pinned}-{overlap}-{repeat}"
                    found += run(recipe, folder, overlap, told.steps, pinned=pinned)
            turns, ahead = median(seconds[0]), median(seconds[1])
            label = "a core for generation, one for the rest" if pinned else "all cores for both"
            print(f"| {label} | {turns:.2f} | {ahead:.2f} | {ahead / turns:.2f} |", flush=True)


if __name__ == "__main__":
    main()
