"""Known tokens whose log-probs the trainer and a generator compare after every weight sync."""

from __future__ import annotations

import numpy as np

from distft.batches import Array

ROWS, LENGTH = 2, 24


def probe_tokens(vocabulary: int, longest: int) -> list[Array]:
    """``ROWS`` rows of tokens out of the whole vocabulary, the same in every process; a row's first is its prompt."""
    length = max(2, min(LENGTH, longest))
    return list(np.random.default_rng(0).integers(0, vocabulary, (ROWS, length), dtype=np.int32))
