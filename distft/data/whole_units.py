"""Rankings of more answers than a micro-batch is planned for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from distft.common.errors import UserError
from distft.data.tokenized import TokenizedDataset


def require_whole(lists: Mapping[str, TokenizedDataset], most: int) -> None:
    """Raises UserError, naming the row, where a unit has more than ``most`` sequences."""
    largest = max((dataset.unit_size for dataset in lists.values()), default=1)
    for name, dataset in lists.items():
        if dataset.unit_size > most:
            unit = int(np.argmax(dataset.sizes > most))
            what = f"this row of data.{name} ranks {dataset.sizes[unit]} answers, algorithm.max_answers is {most}"
            raise UserError(what, where=dataset.rows([unit])[0].where, hint=f"algorithm.max_answers={largest}")
