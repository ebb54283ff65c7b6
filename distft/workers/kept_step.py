"""The samples of one step in a folder of their own, for people and ``distft replay``: tensors and JSON.

::

    batch.safetensors     the columns of its samples; a ragged one as its values and the lengths of its rows
    rows.json             {"format", "step", "seed", "start", "count", "rows": where each of these rows of train stands}
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from distft.batches import Batch
from distft.common.files import write_json
from distft.workers.kept_batch import write_batch
from distft.workers.reports import StepRows

BATCH, ROWS = "batch.safetensors", "rows.json"
FORMAT = 1


def write_step(folder: Path, batch: Batch, rows: StepRows, places: Sequence[str], seed: int) -> None:
    """``places[i]``: file and line of the unit at position ``rows.start + i``. The folder appears whole, in the place
    of a former one. Raises OSError, SafetensorError."""
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    write_batch(draft / BATCH, batch)
    write_json(draft / ROWS, {"format": FORMAT, **asdict(rows), "seed": seed, "rows": list(places)})
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
