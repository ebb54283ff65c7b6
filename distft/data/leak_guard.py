"""Which stored rows may not be trained on, because rows that judge ask the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from distft.data.leaks import Judged
from distft.data.stored_rows import StoredRows

Rows: TypeAlias = npt.NDArray[np.int64]


def leaked(source: StoredRows, rows: Rows, judges: Sequence[tuple[StoredRows, Rows]]) -> npt.NDArray[np.bool_]:
    """For each of the rows whether it asks what a row of ``judges`` asks, or holds it with its answer (see ``leaks``).

    The numbers find what may be held; the rows they find are then read and compared turn for turn.
    """
    traced = source.traced()
    of_judges = [(judge, traced if judge is source else judge.traced(), judged) for judge, judged in judges]
    leaks = traced.asks_any(np.concatenate([found.questions(judged) for _, found, judged in of_judges]))[rows]
    answers = np.concatenate([found.own_answers(judged)[0] for _, found, judged in of_judges])
    suspects = np.flatnonzero(traced.answers_any(answers)[rows] & ~leaks)
    if not len(suspects):
        return leaks
    pairs = np.unique(np.concatenate([traced.answered_by(int(rows[place])) for place in suspects]))
    judged_rows = Judged()
    for judge, found, judged in of_judges:
        own, owners = found.own_answers(judged)
        for row in np.unique(owners[np.isin(own, pairs)]).tolist():
            judged_rows.add(judge.example(row))
    for place in suspects.tolist():
        leaks[place] = judged_rows.held_in(source.example(int(rows[place])))
    return leaks
