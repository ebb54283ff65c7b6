"""What the flight recorder costs: steps of a recipe with it and without it, in turns.

    python -m tests.benchmarks.flight_recorder [--repeats 20] [--recipes sft-tiny,sft-wide,ppo-tiny]

One process of one thread that is the only rank of every role, the controller and the data worker, so that its time is
all that a step takes, the line of the file too. Of each recipe two sessions take steps alternately; processor time,
which other work on the machine does not count in, medians over the repetitions. Prints a table (Markdown).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from distft.config.load import load_recipe
from distft.controller.rl import train_rl
from distft.controller.session import Session
from distft.controller.supervised import train_supervised
from distft.engine import process_group
from tests.harness.spmd import build_session

WORDS = (
    "data.eval=[]", "data.test=[]", "tracking.wandb.mode=disabled", "tracking.samples_every=0",
    "checkpoint.every=100000", "evaluation.every=0", "train.steps=100000",
)  # fmt: skip
WIDE = tuple(
    f"models.policy.init.{key}" for key in ("hidden_size=512", "num_layers=8", "num_heads=8", "vocab_size=2048")
)
RECIPES = {"sft-tiny": ("sft-tiny", ()), "sft-wide": ("sft-tiny", WIDE), "ppo-tiny": ("ppo-tiny", ())}


def session(name: str, folder: Path, store: tuple[str, int], *, recorded: bool) -> Session:
    """That has taken no step yet."""
    recipe, words = RECIPES[name]
    said = [*WORDS, *words, f"output_dir={folder}", f"tracking.flight_recorder={str(recorded).lower()}"]
    return build_session(load_recipe(recipe, said), folder, store=store)


def seconds(session: Session, steps: int) -> float:
    """Processor seconds of so many steps more."""
    session.progress.total_steps = session.progress.step + steps
    started = time.process_time()
    (train_rl if session.recipe.algorithm.traits.sampled else train_supervised)(session)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    told = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    hosted = process_group.host_store("127.0.0.1")
    store = ("127.0.0.1", int(hosted.port))
    print("| recipe | a step, s | with the recorder | lines of flight.jsonl, bytes |", "|---|---|---|---|", sep="\n")
    for name in told.recipes.split(","):
        with tempfile.TemporaryDirectory(prefix="distft-") as place:
            sessions = {on: session(name, Path(place) / str(on), store, recorded=on) for on in (False, True)}
            for one in sessions.values():
                if one.recipe.algorithm.traits.sampled:
                    one.weights.sync(0)
                seconds(one, told.steps)
            found: dict[bool, list[float]] = {False: [], True: []}
            for repeat in range(told.repeats):
                for on in (False, True) if repeat % 2 else (True, False):
                    found[on].append(seconds(sessions[on], told.steps))
            ratio = median(on / off for off, on in zip(found[False], found[True], strict=True))
            size = (Path(place) / "True" / "flight.jsonl").stat().st_size / sessions[True].progress.step
            print(f"| {name} | {median(found[False]) / told.steps:.3f} | {ratio:.4f} | {size:.0f} |", flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # threads of torch have been seen to abort an interpreter that ends
