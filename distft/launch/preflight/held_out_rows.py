"""Whether ``data.holdout`` leaves any row to judge by, where there are few of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from distft.config.recipe import Recipe
from distft.data.bad_rows import BadRow, Unusable
from distft.data.formats import prompt_key
from distft.data.readers import example_for
from distft.data.sources import format_of, is_builtin, read_rows, source_files
from distft.data.splits import LIST_NAMES, held_out, none_held_out

MOST_ROWS = 2000  # that are looked at: a share that leaves none of so many is seen by the data worker


def check_held_out(recipe: Recipe) -> None:
    """Each list that takes its rows from data.train gets one, where those are on this machine. Raises UserError."""
    data = recipe.data
    waiting = [name for name in LIST_NAMES if name != "train" and not getattr(data, name)]
    here = all(is_builtin(source) or source_files(source, "train") for source in data.train)
    if not data.holdout or not waiting or not here:
        return
    keys = list(islice(_keys(recipe), MOST_ROWS))
    if len(keys) == MOST_ROWS:
        return
    halves = np.frombuffer(b"".join(keys), ">u8").reshape(-1, 2).astype(np.uint64)
    sides = held_out(halves, data.holdout, waiting)
    for name in waiting:
        if LIST_NAMES.index(name) not in sides:
            raise none_held_out(name, data.holdout)


def _keys(recipe: Recipe) -> Iterator[bytes]:
    """What the rows of data.train are divided by, 16 bytes each; of those that can be used."""
    for source in recipe.data.train:
        format_name = ""
        for row in read_rows(source, "train", lambda _: None):
            try:
                format_name = format_name or format_of(source, row, recipe.algorithm.kind)
                yield bytes.fromhex(prompt_key(example_for(row, format_name, recipe.algorithm.kind)))
            except (Unusable, BadRow):
                continue
