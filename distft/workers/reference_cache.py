"""What the reference said of a run's rows, in its folder: computed once, by the policy, and looked up ever after.

::

    RUN/reference/<key>/    the key is the model's: its weights, and the numbers that it computes in

What is kept of a row is found by its tokens, so that other rows, another tokenizer or other limits are simply rows that
are not there yet; another model has another folder, and the former goes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from distft.batches import Batch
from distft.common.errors import UserError
from distft.common.files import sha256_file
from distft.common.logging import stage
from distft.config.models import Model
from distft.planning.model_folders import fetched_folder
from distft.planning.weight_files import weight_files
from distft.workers.kept_logprobs import KeptLogprobs
from distft.workers.run_data import RunData

log = logging.getLogger(__name__)

FOLDER: Final = "reference"
# For so long it looks for rows of which nothing is kept, before it says how far it is.
SLICE_S: Final = 10.0


@dataclass
class ReferenceCache:
    """``blocks`` of units by list, those that the run needs; ``done`` of the ``num_units`` have been looked at."""

    data: RunData
    kept: KeptLogprobs
    blocks: Iterator[tuple[str, list[int]]]
    num_units: int
    done: int = 0

    @classmethod
    def of(cls, data: RunData, until: int, at_most: int) -> ReferenceCache:
        """For the units that training visits before position ``until`` and those that judge, ``at_most`` in a block.
        Raises UserError where the weights are not to be found."""
        policy = data.recipe.models.policy
        assert policy is not None
        stage("looking for what the reference has said")
        folder = Path(data.recipe.output_dir).absolute() / FOLDER / model_key(data.starts["policy"].path, policy)
        if folder.parent.is_dir():
            for other in folder.parent.iterdir():
                if other != folder and other.is_dir():
                    log.info("what another model said goes: %s", other)
                    shutil.rmtree(other)
        needed = list(_needed(data, until))
        blocks = [
            (split, units[start : start + at_most])
            for split, units in needed
            for start in range(0, len(units), at_most)
        ]
        return cls(data, KeptLogprobs(folder), iter(blocks), sum(len(units) for _, units in needed))

    def unread(self) -> tuple[Batch, int, int]:
        """Sequences of which nothing is kept, and how many of how many units need nothing more. There may be none for
        now; none and all units: it has everything."""
        until = time.monotonic() + SLICE_S
        for split, units in self.blocks:
            batch = self.data.split(split).batch(units)
            missing = self.kept.missing(batch)
            if missing:
                done, self.done = self.done, self.done + len(units)
                return _of_units(batch, missing), done, self.num_units
            self.done += len(units)
            if time.monotonic() >= until:
                break
        return Batch({}), self.done, self.num_units

    def keep(self, batch: Batch) -> None:
        """Keeps column ``ref_logprobs``."""
        self.kept.add(batch, "ref_logprobs")

    def attached(self, batch: Batch) -> Batch:
        """The rows with column ``ref_logprobs``."""
        return batch.with_columns(ref_logprobs=self.kept.column(batch))


def model_key(path: str, model: Model) -> str:
    """Equal where a model gives the same log-probs but for rounding: its weights, and the numbers it computes in.

    Raises UserError where its weights do not lie on this machine as safetensors.
    """
    folder = fetched_folder(path)
    files = weight_files(folder) if folder is not None else []
    if folder is None or not files:
        raise UserError(
            f"{path} has no safetensors weights here by which it could be told from another",
            where="algorithm.reference", hint="algorithm.reference=group",
        )  # fmt: skip
    hashes = [[file.name, sha256_file(file)] for file in (folder / "config.json", *files)]
    quantized = model.quantization and model.quantization.model_dump(mode="json")
    return hashlib.sha256(json.dumps([hashes, model.dtype, quantized]).encode()).hexdigest()[:32]


def _needed(data: RunData, until: int) -> Iterator[tuple[str, list[int]]]:
    """Of each list the units that the run can meet, in their order."""
    for split, dataset in data.lists.items():
        count = until if split == "train" else min(data.recipe.evaluation.max_samples, dataset.num_units)
        yield split, sorted(set(data.units(split, 0, count)))


def _of_units(batch: Batch, missing: list[int]) -> Batch:
    """The units that those rows are of, whole, numbered anew."""
    units = batch.dense("unit")
    wanted = set(units[missing].tolist())
    rows = [row for row, unit in enumerate(units.tolist()) if unit in wanted]
    order = {unit: number for number, unit in enumerate(sorted(wanted))}
    return batch.take(rows).with_columns(
        sample=np.arange(len(rows), dtype=np.int64),
        unit=np.array([order[unit] for unit in units[rows].tolist()], np.int64),
    )
