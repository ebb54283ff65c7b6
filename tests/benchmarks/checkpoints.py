"""How long training stands still for a checkpoint, synchronous, asynchronous and in memory, beside a plain copy of it.

    python -m tests.benchmarks.checkpoints [--repeats 3] [--steps 12] [--every 4]

SFT of a Llama of 30 M parameters on two ranks (ZeRO-3, float32, 365 MB a checkpoint). Alternating runs; of each the
mean of its checkpoints, but for the last, which always lies on the disk and is waited for; medians over the runs as a
table (Markdown).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from distft.common.files import sync_file

RECIPE: dict[str, Any] = {
    "format": 1, "name": "checkpoints", "output_dir": "given", "seed": 1,
    "algorithm": {"kind": "sft"},
    "models": {
        "policy": {
            "init": {"architecture": "llama", "hidden_size": 512, "num_layers": 7, "num_heads": 8, "vocab_size": 2048,
                     "max_positions": 256},
            "dtype": "float32",
        },
    },
    "placement": {"policy": {"ranks": 2}},
    "data": {"train": [{"path": "builtin:dialogues"}], "max_length": 128},
    "train": {"global_batch_size": 16, "max_tokens_per_rank": 1024},
    "checkpoint": {"keep": 1}, "evaluation": {"max_samples": 1}, "tracking": {"samples_every": 0},
}  # fmt: skip


# The keys that write one every so many steps.
WAYS = {
    "synchronous": ("checkpoint.every={}",),
    "asynchronous": ("checkpoint.every={}", "checkpoint.asynchronous=true"),
    "in memory": ("checkpoint.memory_every={}",),
}


class Times(NamedTuple):
    """Seconds: that training stood still for a checkpoint, of a step with its share of that, and of a plain copy of a
    checkpoint's files, each synced. ``size``: the bytes of one."""

    still: float
    step: float
    copied: float
    size: int


def run(recipe: Path, folder: Path, steps: int, every: int, way: str) -> Times:
    """One run, and a copy of its newest checkpoint."""
    words = [f"output_dir={folder}", f"train.steps={steps}", *(key.format(every) for key in WAYS[way])]
    done = subprocess.run(
        [sys.executable, "-m", "distft.cli", "train", str(recipe), *words],
        env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if line["split"] == "train"]
    still = sum(
        line.get("timing/checkpoint", 0.0) + line.get("timing/memory_copy", 0.0) for line in training
    )  # of step n, its checkpoint is in the next line
    seconds = training[-1]["time"] - training[0]["time"]
    (newest,) = (folder / "checkpoints").glob("step_*")
    copied, size = copy(newest, folder / "copy")
    shutil.rmtree(folder)
    return Times(still / ((steps - 1) // every), seconds / (steps - 1), copied, size)


def copy(folder: Path, target: Path) -> tuple[float, int]:
    """Seconds of a copy, every file of it synced, and its bytes."""
    os.sync()
    started, size = time.perf_counter(), 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        there = target / path.relative_to(folder)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, there)
        sync_file(there)
        size += there.stat().st_size
    return time.perf_counter() - started, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--dir", help="where the run folders go")
    told = parser.parse_args()
    found: dict[str, list[Times]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="distft-", dir=told.dir) as name:
        recipe = Path(name) / "recipe.yaml"
        recipe.write_text(json.dumps(RECIPE))
        for repeat in range(told.repeats):
            for way, times in found.items():
                folder = Path(name) / f"{way.split()[-1]}-{repeat}"
                times.append(run(recipe, folder, told.steps, told.every, way))
                print(way, times[-1], file=sys.stderr, flush=True)
    copied = median(times.copied for all_of_one in found.values() for times in all_of_one)
    print(f"{found['synchronous'][0].size / 1e6:,.0f} MB a checkpoint; a plain copy, synced: {copied:.2f} s")
    print("| checkpoint | stands still, s | of a plain copy | a step, s |", "|---|---|---|---|", sep="\n")
    for way, times in found.items():
        still, step = median(one.still for one in times), median(one.step for one in times)
        print(f"| {way} | {still:.2f} | {still / copied:.2f} | {step:.2f} |")


if __name__ == "__main__":
    main()
