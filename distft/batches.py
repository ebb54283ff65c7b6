"""The nouns: ragged, columnar batches. numpy only, so that the controller needs no torch.

Shape legend, used in every docstring of the package:

==================  ====================================================================
``n``               samples (sequences) of a batch
``u``               units: what must stay in one micro-batch. A sample; a preference pair
                    (chosen, rejected); a ranking
``t_i``             response tokens of sample i; ``T`` their sum over a batch
==================  ====================================================================

Columns (``Ragged`` unless said to be dense, one value per sample):

==================  ====================================================================
prompt_ids          int32, context tokens: never trained on
response_ids        int32 [t_i], what is trained on or was generated
response_mask       uint8 [t_i], 0 = observation/other speaker; missing column = all 1.
                    The first response token of a sample without a prompt has mask 0:
                    nothing predicts it
old_logprobs, ref_logprobs, logprobs, entropy, values, rewards, advantages, returns
                    float32 [t_i], aligned with response_ids
teacher_logprobs    float32 [t_i, width], what the teacher told of each token: see ``algorithms.divergences``
teacher_ids         int32 [t_i, width - 1], the tokens that it named; missing: all, in their order
routed_experts      uint8 or int16 [tokens, width], the experts that the generator chose for the tokens of
                    prompt and response, the last left out; of each token those of all layers in order
step                uint8 [t_i], of answers in steps: 1 = the step that is judged there is right
sample, unit        dense int64: number of the sample and of its unit within the step
group               dense int64: number of the prompt that a sampled response answers; not a unit
score               dense float32: what a reward model or function said of the sample
source              dense int64: number of the source in its list of data, where that has several
label               dense uint8: 1 = a good answer, 0 = a bad one
margin              dense float32: by how much the better answer of a pair is better; the same of both, missing = 0
rank                dense uint8: which answers of a pair or ranking are better, 0 the best, equal = neither is
baseline            dense float32: the KL baseline, one number for all samples of an optimizer step
turns               dense int64: how often the policy spoke in a response that an environment answered
ended               dense uint8: 1 = the response ended by itself (EOS), 0 = cut at the limit
==================  ====================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length in one contiguous array: row i is ``values[offsets[i]:offsets[i+1]]``.

    A token has one value, or as many as ``values`` is wide.
    """

    values: Array
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any] | Array], dtype: npt.DTypeLike) -> Ragged:
        """From a list of rows."""
        arrays = [np.asarray(row, dtype=dtype) for row in rows]
        lengths = np.fromiter((len(a) for a in arrays), dtype=np.int64, count=len(arrays))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        values = np.concatenate(arrays) if arrays else np.zeros(0, dtype=dtype)
        return cls(values.astype(dtype, copy=False), offsets)

    @classmethod
    def split(cls, values: Array, lengths: Sequence[int] | Array) -> Ragged:
        """From a flat array and the lengths of its rows."""
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(lengths, np.int64))])
        if int(offsets[-1]) != len(values):
            raise ValueError(f"{len(values)} values do not split into {int(offsets[-1])}")
        return cls(values, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Array:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)

    def take(self, rows: Sequence[int] | Array) -> Ragged:
        """The given rows, in that order."""
        if not len(rows):
            return Ragged(self.values[:0], np.zeros(1, np.int64))
        return Ragged.of([self[int(row)] for row in rows], self.values.dtype)


Column: TypeAlias = "Ragged | Array"


@dataclass(frozen=True)
class Batch:
    """Named columns over the same n samples."""

    columns: Mapping[str, Column]

    def __post_init__(self) -> None:
        sizes = {name: len(column) for name, column in self.columns.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"columns of unequal length: {sizes}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def ragged(self, name: str) -> Ragged:
        """The ragged column of that name; KeyError or TypeError says what is there instead."""
        column = self.columns[name]
        if not isinstance(column, Ragged):
            raise TypeError(f"column {name} is dense")
        return column

    def dense(self, name: str) -> Array:
        """The dense column of that name."""
        column = self.columns[name]
        if isinstance(column, Ragged):
            raise TypeError(f"column {name} is ragged")
        return column

    def response_mask(self) -> Ragged:
        """The column of that name, all ones where it is missing."""
        if "response_mask" in self:
            return self.ragged("response_mask")
        responses = self.ragged("response_ids")
        return Ragged(np.ones(len(responses.values), np.uint8), responses.offsets)

    def rows_of_samples(self) -> dict[int, int]:
        """Where each sample of the column ``sample`` lies; empty for an empty batch."""
        return {int(sample): row for row, sample in enumerate(self.dense("sample"))} if len(self) else {}

    def take(self, rows: Sequence[int] | Array) -> Batch:
        """The given samples, in that order."""
        index = np.asarray(rows, dtype=np.int64)
        return Batch(
            {
                name: column.take(index) if isinstance(column, Ragged) else column[index]
                for name, column in self.columns.items()
            }
        )

    def with_columns(self, **columns: Column) -> Batch:
        """The same samples with columns added or replaced."""
        return Batch({**self.columns, **columns})


@dataclass(frozen=True)
class Difference:
    """How far two columns of log-probs are apart: |a - b| over their tokens, in nats.

    The maximum grows with the number of tokens: it is for people to see. ``mean`` and ``q999`` (the 99.9 %
    quantile) do not, and tell rounding from another model.
    """

    mean: float
    q999: float
    max: float

    @classmethod
    def of(cls, one: Array, other: Array) -> Difference:
        """Of two arrays of the same shape; 0 where there are no tokens, NaN where one of them is."""
        apart = np.abs(np.asarray(one, np.float64) - other)
        if not apart.size:
            return cls(0.0, 0.0, 0.0)
        return cls(float(apart.mean()), float(np.quantile(apart, 0.999)), float(apart.max()))


def concatenate(parts: Sequence[Batch]) -> Batch:
    """The samples of all parts, in order. Parts must have the same columns."""
    if not parts:
        return Batch({})
    names = list(parts[0].columns)
    joined: dict[str, Column] = {}
    for name in names:
        columns = [part.columns[name] for part in parts]
        if isinstance(columns[0], Ragged):
            ragged = [c for c in columns if isinstance(c, Ragged)]
            lengths = np.concatenate([c.lengths for c in ragged])
            joined[name] = Ragged.split(np.concatenate([c.values for c in ragged]), lengths)
        else:
            joined[name] = np.concatenate([c for c in columns if not isinstance(c, Ragged)])
    return Batch(joined)
