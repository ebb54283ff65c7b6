"""Rows of more sequences than a micro-batch is planned for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from distft.common.errors import UserError
from distft.config.method import TUPLES, Method
from distft.data.tokenized import TokenizedDataset


def require_whole(lists: Mapping[str, TokenizedDataset], algorithm: Method) -> None:
    """Raises UserError, naming the row, where a unit has more sequences than the method says."""
    most = algorithm.unit_rows()
    largest = max((dataset.unit_size for dataset in lists.values()), default=1)
    for name, dataset in lists.items():
        if dataset.unit_size <= most:
            continue
        unit = int(np.argmax(dataset.sizes > most))
        size = int(dataset.sizes[unit])
        # Of a tuple two are no negatives.
        tuples = algorithm.traits.unit == TUPLES
        does, key, beside = ("has", "max_negatives", 2) if tuples else ("ranks", "max_answers", 0)
        what = f"{does} {size - beside} {'negatives' if tuples else 'answers'}"
        raise UserError(
            f"this row of data.{name} {what}, algorithm.{key} is {most - beside}",
            where=dataset.rows([unit])[0].where,
            hint=f"algorithm.{key}={largest - beside}",
        )
