"""What training pays where W&B's server cannot be reached: runs of a recipe with W&B disabled, online at a port where
nobody listens, and online at one that accepts and never answers, in turns.

    python -m tests.benchmarks.unreachable [RECIPE] [KEY=VALUE ...]

Prints each run's figures, and their medians: seconds from the first step's line to the last one's, evaluations and
checkpoints included, and milliseconds of a step, the median of all.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

TIMES = 5


def train(run: Path, words: list[str], mode: str, env: dict[str, str]) -> dict[str, float]:
    """The figures of a whole run of ``distft train``. Ends the program where the run fails."""
    command = [sys.executable, "-m", "distft.cli", "train", *words, f"output_dir={run}", f"tracking.wandb.mode={mode}"]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    ends = [line["time"] for line in lines if line["split"] == "train"]
    steps = [after - before for before, after in pairwise(ends)]
    return {"seconds": ends[-1] - ends[0], "step_ms": 1e3 * statistics.median(steps)}


def main() -> None:
    """The medians of each kind, and what they are of those without W&B."""
    words = sys.argv[1:] or ["sft-tiny"]
    found: dict[str, list[dict[str, float]]] = {}
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent, tempfile.TemporaryDirectory() as folder:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            ports = {"closed": nobody.getsockname()[1], "silent": silent.getsockname()[1]}
        servers = {kind: {"WANDB_BASE_URL": f"http://127.0.0.1:{port}"} for kind, port in ports.items()}
        kinds: dict[str, dict[str, str]] = {"disabled": {}, **servers}
        for turn in range(TIMES):
            for kind in (*list(kinds)[turn % len(kinds) :], *list(kinds)[: turn % len(kinds)]):
                mode = "online" if kinds[kind] else "disabled"
                env = {"WANDB_API_KEY": "0badc0de" * 5, **kinds[kind]}
                one = train(Path(folder) / f"{kind}-{turn}", words, mode, env)
                found.setdefault(kind, []).append(one)
                print(kind, one, flush=True)
    without = {name: statistics.median(one[name] for one in found["disabled"]) for name in found["disabled"][0]}
    for kind, runs in found.items():
        for name, least in without.items():
            middle = statistics.median(one[name] for one in runs)
            print(f"{kind:10}{name:10}{middle:10.3f}{middle / least:8.3f}")


if __name__ == "__main__":
    main()
