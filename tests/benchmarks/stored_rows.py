"""The data plane with many short rows: time to tokenise, memory, a kill half-way, two starts at once, a second start.

    python -m tests.benchmarks.stored_rows [--rows 3000000] [--workers 2] [--folder FOLDER]

Each start is a data worker in a process of its own. Prints a line a start; memory is the worker's own (anonymous
pages: what is mapped from the store belongs to the system's cache) at its highest, seen every tenth of a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distft.config.load import load_recipe
from distft.data.store import BESIDE, ROWS
from distft.workers.spec import Start
from tests.reference.tiny_models import save_llama, train_tokenizer

_LOOK_S = 0.1
_RECIPE = """
name: many
output_dir: runs/many
algorithm: {{kind: sft}}
models: {{policy: {{path: model, dtype: float32}}}}
data: {{train: [{{path: rows.jsonl}}], max_length: 64, num_workers: {workers}}}
train: {{steps: 2, global_batch_size: 8, max_tokens_per_rank: 512}}
tracking: {{wandb: {{mode: disabled}}}}
"""


def prepare(folder: Path, num_rows: int, workers: int) -> None:
    """Recipe, model and rows: no two are equal."""
    tokenizer = train_tokenizer([f"What is {number} and one? It is {number + 1}." for number in range(2000)], 512)
    save_llama(folder / "model", tokenizer)
    (folder / "recipe.yaml").write_text(_RECIPE.format(workers=workers))
    (folder / "runs").mkdir(exist_ok=True)
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(num_rows):
            row = {"prompt": f"What is {number} and one?", "completion": f" It is {number + 1}."}
            file.write(json.dumps(row) + "\n")


def start(folder: Path) -> None:
    """A data worker's part of a start; prints what it found."""
    from distft.workers.data_worker import DataWorker

    os.chdir(folder)
    worker = DataWorker(recipe=load_recipe("recipe.yaml"), starts={"policy": Start(str(folder / "model"))})
    began = time.monotonic()
    loaded, _ = worker.setup()
    print(f"{time.monotonic() - began:.1f} s for {loaded.statistics['train']}")


class Watched:
    """A start in a process of its own, and the most memory that it has held."""

    def __init__(self, folder: Path) -> None:
        self._began = time.monotonic()
        command = [sys.executable, "-m", "tests.benchmarks.stored_rows", "--start", str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.most_mib = 0.0
        self.seconds = 0.0

    def look(self) -> bool:
        """Whether it runs; what it holds."""
        if self.process.poll() is not None:
            self.seconds = self.seconds or time.monotonic() - self._began
            return False
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return True
        held = [int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")]
        self.most_mib = max([self.most_mib, *held])
        return True

    def report(self, name: str) -> None:
        said = self.process.stdout.read().strip() if self.process.stdout else ""
        status = self.process.returncode
        print(f"{name}: {self.seconds:.1f} s with imports, exit {status}, {self.most_mib:.0f} MiB; {said}", flush=True)


def chunks(folder: Path) -> int:
    return sum(1 for _ in (folder / "runs" / BESIDE).glob("*/chunk-*.arrow"))


def measure(folder: Path, num_rows: int) -> None:
    half = num_rows // 8192 // 2
    killed = Watched(folder)
    while killed.look() and chunks(folder) < half:
        time.sleep(_LOOK_S)
    killed.process.kill()
    killed.process.wait()
    killed.look()
    killed.report(f"killed with {chunks(folder)} chunks done")
    both = [Watched(folder), Watched(folder)]
    while [one for one in both if one.look()]:
        time.sleep(_LOOK_S)
    for one in both:
        one.report("one of two starts at once")
    for name in ("second start", "third start"):
        again = Watched(folder)
        while again.look():
            time.sleep(_LOOK_S)
        again.report(name)
    rows = next((folder / "runs" / BESIDE).glob(f"*/{ROWS}"))
    print(f"store: {rows.stat().st_size / 2**20:.0f} MiB of {(folder / 'rows.jsonl').stat().st_size / 2**20:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.start:
        start(told.start)
        return
    with tempfile.TemporaryDirectory(prefix="distft-") as scratch:
        folder = (told.folder or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, told.rows, told.workers)
        measure(folder, told.rows)


if __name__ == "__main__":
    main()
