"""Columns in a file of a checkpoint, as safetensors: a ragged one as its values and the lengths of its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from distft.batches import Array, Batch, Column, Ragged

_VALUES, _LENGTHS = "/values", "/lengths"


def write_batch(path: Path, batch: Batch) -> None:
    """All columns, the samples in the order of their numbers. Raises OSError."""
    ordered = batch.take(np.argsort(batch.dense("sample"), kind="stable"))
    arrays: dict[str, Array] = {}
    for name, column in ordered.columns.items():
        if isinstance(column, Ragged):
            arrays |= {name + _VALUES: column.values, name + _LENGTHS: column.lengths}
        else:
            arrays[name] = column
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def read_batch(path: Path) -> Batch:
    """What ``write_batch`` wrote. Raises OSError."""
    arrays = load_file(path)
    columns: dict[str, Column] = {}
    for name, array in arrays.items():
        if name.endswith(_VALUES):
            name = name.removesuffix(_VALUES)
            columns[name] = Ragged.split(array, arrays[name + _LENGTHS])
        elif not name.endswith(_LENGTHS):
            columns[name] = array
    return Batch(columns)
