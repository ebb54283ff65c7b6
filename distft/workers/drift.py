"""How far rows that judge are from those that are trained on: how long they are, and of which tokens. Numpy only."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from distft.data.tokenized import TokenizedDataset
from distft.tracking.data_alarms import Drift

Rows: TypeAlias = npt.NDArray[np.int64]

MOST: Final = 2000  # units of a list that are looked at, at equal distances: no order of millions is made for it
FEWEST: Final = 20  # units: of less nothing is said


def drift(train: TokenizedDataset, judged: TokenizedDataset, *, prompts: bool) -> Drift | None:
    """Of a sample of the rows of both, of their ``prompts`` alone where the method reads no more; None where there are
    too few.

    ``expected`` is what leaving out one row at a time finds (it is Good's 1953 estimate of what has not been seen, rows
    in place of single draws): rows from where those of training come from have so many unseen tokens by chance.
    """
    if min(train.num_units, judged.num_units) < FEWEST:
        return None
    (own, row), (theirs, of_theirs) = (_sampled(dataset, prompts=prompts) for dataset in (train, judged))
    width = row.max(initial=0) + 1
    known, num_rows = np.unique(np.unique(own * width + row) // width, return_counts=True)
    alone = np.isin(own, known[num_rows == 1])
    lengths = tuple(float(np.median(np.bincount(rows))) for rows in (row, of_theirs))
    return Drift((lengths[0], lengths[1]), float((~np.isin(theirs, known)).mean()), float(alone.mean()))


def _sampled(dataset: TokenizedDataset, *, prompts: bool) -> tuple[Rows, Rows]:
    """The tokens of the sample, and whose each is: the number of its sequence or prompt."""
    units = np.linspace(0, dataset.num_units - 1, min(MOST, dataset.num_units)).astype(np.int64).tolist()
    batch = dataset.prompts(units) if prompts else dataset.batch(units)
    columns = [batch.ragged(name) for name in ("prompt_ids", "response_ids") if name in batch]
    numbers = np.arange(len(batch))
    tokens = np.concatenate([column.values.astype(np.int64) for column in columns])
    return tokens, np.concatenate([np.repeat(numbers, column.lengths) for column in columns])
