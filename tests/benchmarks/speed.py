"""Tokens per second of DPO and SFT on one rank: distft beside TRL 1.16 and a bare torch loop.

    python -m tests.benchmarks.speed [--only trl,bare] [--json FILE]

A 25 M Llama (vocabulary 2,048), HH-RLHF rows, max_length 512, batches of 8 rows, bf16, two threads.
Each candidate runs in a process of its own. Prints a table (Markdown); progress goes to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

THREADS = 2
CANDIDATES = {
    "trl": "TRL 1.16, as shipped",
    "trl-nockpt": "TRL 1.16, gradient checkpointing off",
    "bare": "bare torch loop",
    "distft": "distft",
}
METHODS = ("dpo", "sft")


@dataclass(frozen=True)
class Result:
    """One candidate on one method; tokens are real ones, counted alike for all (see rows.Rows)."""

    candidate: str
    method: str
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def measure(candidate: str, method: str, folder: Path) -> Result:
    """In the process of one candidate: torch is imported here, after the threads are set."""
    rows_module = importlib.import_module("tests.benchmarks.rows")
    candidates = importlib.import_module("tests.benchmarks.candidates")
    importlib.import_module("torch").set_num_threads(THREADS)
    stored = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    rows = rows_module.Rows(
        **{
            field.name: stored[field.name] if "tokens" in field.name else Path(stored[field.name])
            for field in fields(rows_module.Rows)
        }
    )
    counts = rows.preference_tokens if method == "dpo" else rows.text_tokens
    tokens = sum(counts[candidates.WARM_UP * candidates.BATCH : candidates.STEPS * candidates.BATCH])
    if candidate.startswith("trl"):
        seconds = candidates.trl(rows, method, shipped=candidate == "trl")
    else:
        seconds = getattr(candidates, candidate)(rows, method)
    return Result(candidate, method, tokens, seconds)


def prepare(folder: Path) -> None:
    rows_module = importlib.import_module("tests.benchmarks.rows")
    candidates = importlib.import_module("tests.benchmarks.candidates")
    rows = rows_module.prepare(folder, (candidates.STEPS + candidates.AHEAD) * candidates.BATCH)
    (folder / "rows.json").write_text(json.dumps(asdict(rows), default=str), encoding="utf-8")


def table(results: list[Result]) -> str:
    """Markdown: a line a candidate, tokens/s and the ratio to TRL as shipped, for each method."""
    speed = {(result.candidate, result.method): result.tokens_per_second for result in results}
    lines = ["| | DPO tokens/s | x TRL | SFT tokens/s | x TRL |", "|---|---|---|---|---|"]
    for candidate, label in CANDIDATES.items():
        cells = [label]
        for method in METHODS:
            own, base = speed.get((candidate, method)), speed.get(("trl", method))
            cells += [f"{own:,.0f}" if own else "", f"{own / base:.2f}" if own and base else ""]
        if any(cells[1:]):
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(CANDIDATES), help="candidates, separated by commas")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--one", nargs=3, metavar=("CANDIDATE", "METHOD", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        result = measure(arguments.one[0], arguments.one[1], Path(arguments.one[2]))
        print(json.dumps(asdict(result)))
        return
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(THREADS),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    results = []
    with tempfile.TemporaryDirectory(prefix="dt") as folder:
        prepare(Path(folder))
        for candidate in arguments.only.split(","):
            for method in METHODS:
                command = [sys.executable, "-m", "tests.benchmarks.speed", "--one", candidate, method, folder]
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{candidate} {method} failed")
                results.append(Result(**json.loads(done.stdout.splitlines()[-1])))
                print(f"{candidate} {method}: {results[-1].tokens_per_second:,.0f} tokens/s", file=sys.stderr)
    print(table(results))
    if arguments.json:
        figures = [asdict(result) | {"tokens_per_second": result.tokens_per_second} for result in results]
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
