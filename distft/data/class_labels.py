"""The labels of texts: which there are, and the number of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from distft.common.errors import UserError, nearest
from distft.config.data import CLASSIFIED, Source
from distft.data.bad_rows import BadRow, Unusable
from distft.data.formats import ClassifiedExample
from distft.data.readers import example_of
from distft.data.sources import read_rows

MOST: Final = 1000  # labels: a column with more names is none of classes


def labels_in(sources: Sequence[Source]) -> tuple[str, ...]:
    """The labels of the sources' rows, numbers in their order, else by name. Rows that are wrong are left to whoever
    reads them all.

    Raises what reading a source can raise; UserError for labels that are too many, or fewer than two.
    """
    found: set[str] = set()
    for source in sources:
        for row in read_rows(source, on_bad=lambda _bad: None):
            try:
                example = example_of(row, CLASSIFIED[0])
            except (BadRow, Unusable):
                continue
            assert isinstance(example, ClassifiedExample)
            found.add(example.label)
            if len(found) > MOST:
                what = f"column `label` has more than {MOST} different values: they name no classes"
                raise UserError(what, where=source.path, hint="`columns: {NAME: label}` on the source reads another")
    if len(found) < 2:
        what = f"has {'the one label ' + next(iter(found)) if found else 'no labels'}: there is nothing to tell apart"
        raise UserError(what, where="data.train", hint="rows with a text and its `label`, of two classes or more")
    if all(label.lstrip("-").isdigit() for label in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def numbers_of(names: Iterable[str | None], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """The number of each name among the labels. A name that is no label but a whole number is one already, where labels
    have names: so data sets write them. Raises UserError for what is neither."""
    known = {label: number for number, label in enumerate(labels)}
    counted = {str(number): number for number in range(len(labels))} if not known.keys() & {"0", "1"} else {}
    found = []
    for name in names:
        number = known.get(str(name), counted.get(str(name)))
        if number is None:
            close = nearest(str(name), labels)
            listed = ", ".join(labels[:9]) + (", ..." if len(labels) > 9 else "")
            hint = f"did you mean {close}?" if close else "algorithm.labels names them all; `limit` leaves rows out"
            raise UserError(f"a row has the label {name}; the labels are {listed}", where="data", hint=hint)
        found.append(number)
    return np.array(found, np.int64)
