"""How far responses say again what they have said."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distft.batches import Batch

RUN = 4  # tokens


def repetition(rollout: Batch) -> float:
    """The share of a response's runs of four tokens that stand in it before, the mean over responses.

    seq-rep-4 of Welleck et al. 2020 (Neural text generation with unlikelihood training, eq. 8): 1 less the share of
    different n-grams. A response of less than four tokens repeats nothing, nor does a run that has a token in it which
    is not the policy's own.
    """
    responses = rollout.ragged("response_ids")
    tokens, own = responses.values.astype(np.int64), rollout.response_mask().values.astype(bool)
    row = np.repeat(np.arange(len(responses)), responses.lengths)
    starts = np.flatnonzero(_within(row, own))
    if not len(starts):
        return 0.0
    runs = _numbered(tokens)
    runs = _numbered(runs[:-1] * (runs.max() + 1) + runs[1:])  # pairs of tokens, then pairs of pairs: no number is
    runs = runs[:-2] * (runs.max() + 1) + runs[2:]  # as large as 2^63, whatever the vocabulary
    rows, runs = row[starts], _numbered(runs[starts])
    different = np.unique(rows * (runs.max() + 1) + runs) // (runs.max() + 1)
    num_runs, num_different = (np.bincount(of, minlength=len(responses)) for of in (rows, different))
    return float((1 - num_different / np.maximum(num_runs, 1))[num_runs > 0].sum() / len(responses))


def _within(row: npt.NDArray[np.int64], own: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """For each token whether a run begins there: four of the same response, all of them the policy's own."""
    count = max(0, len(row) - RUN + 1)
    found: npt.NDArray[np.bool_] = row[:count] == row[RUN - 1 :]
    for place in range(RUN):
        found &= own[place : place + count]
    return found


def _numbered(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same values as numbers from 0 on without gaps."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
