"""What the controller knows of samples, and what of a verb's result is wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from distft.groups.handles import DataRef, Result
from distft.workers.reports import Described

_Report = TypeVar("_Report")


@dataclass(frozen=True)
class Samples:
    """Where their columns are, how long they are, what belongs together.

    ``lengths[i]`` tokens (prompt and response) and ``units[i]`` of sample i; ``data`` references to columns
    over these samples. ``answers[i]`` of the tokens are the response's, where the model reads it apart; else empty.
    """

    data: tuple[DataRef, ...]
    lengths: tuple[int, ...]
    units: tuple[int, ...]
    answers: tuple[int, ...] = ()

    @classmethod
    def of(cls, result: Result[Described]) -> Samples:
        """Those that a verb of the data worker brought."""
        return cls.described((data_of(result),), result.report)

    @classmethod
    def described(cls, data: tuple[DataRef, ...], report: Described) -> Samples:
        """Those of columns that lie there."""
        return cls(data, report.lengths, report.units, report.answers)

    def with_data(self, *more: DataRef) -> Samples:
        """The same samples with further columns."""
        return replace(self, data=(*self.data, *more))

    @property
    def num_tokens(self) -> int:
        """Real tokens of all samples."""
        return sum(self.lengths)


def data_of(result: Result[Any]) -> DataRef:
    """The columns that a verb left in the object store; it must have left some."""
    assert result.data is not None
    return result.data


def report_of(result: Result[_Report]) -> _Report:
    """What the first rank reported."""
    return result.report
