"""What training pays where W&B's server cannot be reached: steps of 0.1 s that log as PPO does, W&B disabled, online at
a port where nobody listens, and online at one that accepts and never answers, in turns, each a process of its own.

    python -m tests.benchmarks.unreachable
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distft.tracking.metrics import Sample
from distft.tracking.tracker import Tracker
from distft.tracking.wandb_backend import Mode, WandbOptions

STEPS, STEP_S, NUM_METRICS, TIMES = 150, 0.1, 60, 5
SAMPLES = [Sample("prompt " * 20, "completion " * 20, 0.5)] * 8


def train(run: Path, mode: Mode) -> dict[str, float]:
    """Seconds of the loop by the clock, and milliseconds of a step that its thread computed for the tracker."""
    options = WandbOptions(mode, "project", "name", "ppo", "group")
    tracker = Tracker(run, attempt=1, resume_step=None, total_steps=STEPS, wandb=options)
    computed, began = 0.0, time.monotonic()
    for step in range(1, STEPS + 1):
        time.sleep(STEP_S)
        since = time.thread_time()
        tracker.log(step, {f"metric/{number}": step / (number + 1) for number in range(NUM_METRICS)})
        if step % 10 == 0:
            tracker.samples(step, SAMPLES)
        computed += time.thread_time() - since
    whole = time.monotonic() - began
    tracker.close()
    return {"seconds": whole, "computed_ms": 1e3 * computed / STEPS}


def main() -> None:
    """The medians of each kind, and what they are of those without W&B."""
    found: dict[str, list[dict[str, float]]] = {}
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent, tempfile.TemporaryDirectory() as folder:
        nobody = socket.create_server(("127.0.0.1", 0))
        ports = {"closed": nobody.getsockname()[1], "silent": silent.getsockname()[1]}
        nobody.close()
        kinds = {
            "disabled": {},
            **{name: {"WANDB_BASE_URL": f"http://127.0.0.1:{port}"} for name, port in ports.items()},
        }
        for turn in range(TIMES):
            for kind in (*list(kinds)[turn % len(kinds) :], *list(kinds)[: turn % len(kinds)]):
                run = Path(folder) / f"{kind}-{turn}"
                run.mkdir()
                words = [sys.executable, "-m", __spec__.name, str(run), "disabled" if kind == "disabled" else "online"]
                env = {**os.environ, "WANDB_API_KEY": "0badc0de" * 5, **kinds[kind]}
                done = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True, check=True)
                found.setdefault(kind, []).append(json.loads(done.stdout.splitlines()[-1]))
                print(kind, found[kind][-1], flush=True)
    without = {name: statistics.median(one[name] for one in found["disabled"]) for name in found["disabled"][0]}
    for kind, runs in found.items():
        for name, least in without.items():
            middle = statistics.median(one[name] for one in runs)
            print(f"{kind:10}{name:14}{middle:8.3f}{middle / least:8.3f}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(train(Path(sys.argv[1]), "online" if sys.argv[2] == "online" else "disabled")))
    else:
        main()
