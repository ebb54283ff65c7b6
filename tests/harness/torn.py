"""The life of a run's checkpoints in one process, killed at one call after the other: ``python -m tests.harness.torn``.

Two roles of two ranks save as ranks do; every number of a checkpoint is that of the save it belongs to, so that a
mixture shows. What has been committed is said in a file beside the run folder.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from distft.checkpoint.coordinator import Coordinator
from distft.checkpoint.listing import list_checkpoints
from distft.checkpoint.manifest import FileRecord, record_files
from distft.checkpoint.role_layout import RoleLayout
from distft.common.seeding import rng_state
from distft.engine.shards import Shards, make_shard, piece_key, shard_file
from distft.workers.saving import rng_file
from tests.harness.cuts import Cut, calls, forked
from tests.harness.owner import Mine

ROLES, RANKS, ELEMENTS = ("policy", "value"), 2, 50
WEIGHT = "weight"
LAYOUTS = {role: RoleLayout(RANKS, 3) for role in ROLES}
# Step and number of the save that a resume may find after each act of the story; the first is where it begins.
STORY = ((10, 1), (20, 2), (20, 3), (30, 4), (20, 3), (40, 5))
REWOUND = 4


def save(coordinator: Coordinator, step: int, number: int) -> None:
    """One checkpoint of all ranks."""
    staging = coordinator.begin(step)
    reports: list[FileRecord] = []
    for role in ROLES:
        (staging / role).mkdir()
        for rank in range(RANKS):
            piece = piece_key(WEIGHT, rank * ELEMENTS, "w")
            shard, rng = shard_file(staging / role, rank), rng_file(staging / role, rank)
            make_shard([(piece, torch.full((ELEMENTS,), float(number)))], {}, {"step": number}).write(shard)
            torch.save(rng_state(), rng)
            reports += record_files(staging, [path.relative_to(staging).as_posix() for path in (shard, rng)])
    coordinator.commit(step, reports, {"number": number}, LAYOUTS)


def numbers(checkpoint: Path) -> set[float]:
    """Of which saves the content of a checkpoint is, all files read as a resume reads them."""
    found = {float(json.loads((checkpoint / "progress.json").read_text())["number"])}
    for role in ROLES:
        whole = torch.empty(RANKS * ELEMENTS)
        for rank in range(RANKS):
            shards = Shards(checkpoint / role, rank)
            found.add(float(shards.facts["step"]))
            torch.load(rng_file(checkpoint / role, rank), weights_only=True)
        shards.read(WEIGHT, "w", 0, whole)
        found |= set(whole.tolist())
    return found


def begin(run: Path) -> None:
    """A run with its first checkpoint."""
    save(Coordinator(run, 2, Mine()), *STORY[0])


def story(run: Path, said: Callable[[int], None]) -> None:
    """Saves, one of a step that there is already; what is too old goes; back to a former step, and on from there.
    ``said`` hears the number of each act that is done."""
    coordinator = Coordinator(run, 2, Mine(), attempt=2)
    coordinator.abandon_staging()
    for act, (step, number) in enumerate(STORY[1:], 1):
        if act == REWOUND:
            coordinator.rewind(step)
        else:
            save(coordinator, step, number)
        list_checkpoints(run)
        said(act)


def recovery(run: Path, said: Callable[[int], None]) -> None:
    """What the next start does first."""
    coordinator = Coordinator(run, 2, Mine(), attempt=3)
    coordinator.abandon_staging()
    coordinator.newest()
    said(1)


ACTS = {"story": story, "recovery": recovery}


def live(name: str, run: Path, cut: Cut | None = None) -> bool:
    """One life in a process of its own; whether it came to its end. Leaves ``RUN.log`` and ``RUN.said``."""
    heard = run.with_suffix(".said")

    def work() -> None:
        descriptor = os.open(heard, os.O_WRONLY | os.O_CREAT)
        ACTS[name](run, lambda act: os.pwrite(descriptor, bytes([act]), 0) and None)

    return forked(work, run.with_suffix(".log"), cut)


def main(name: str, start: str, workplace: str, few: str = "", seed: str = "") -> None:
    """Lives ``name`` from a copy of the run folder ``start``, once whole and then once for each of its cuts, or for so
    ``few`` of them, which the seed chooses. The last line printed is JSON: how many cuts there are, and the folders of
    those that were made."""
    folder = Path(workplace)
    shutil.copytree(start, folder / "warm", symlinks=True)
    ACTS[name](folder / "warm", lambda _: None)  # imports, and what else is done once in a process
    shutil.copytree(start, folder / "whole", symlinks=True)
    assert live(name, folder / "whole")
    cuts = [
        seen.cut
        for seen in calls(folder / "whole.log")
        if seen.changes and any(Path(path).is_relative_to(folder / "whole") for path in seen.paths)
    ]
    made: dict[str, str] = {}
    every = range(len(cuts))
    for number in sorted(random.Random(seed).sample(every, int(few))) if few else every:
        run = folder / f"{number:03d}"
        shutil.copytree(start, run, symlinks=True)
        assert not live(name, run, cuts[number]), cuts[number]
        made[str(run)] = str(cuts[number])
    print(json.dumps({"count": len(cuts), "made": made}))


if __name__ == "__main__":
    main(*sys.argv[1:])
