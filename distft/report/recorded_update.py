"""One optimizer step of a role as two runs have recorded it, compared in the order in which things follow from each
other: the weights before, what goes in, what the model says, the loss, the gradients, the weights after."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from distft.tracking.flight import ColumnTrace, StepTrace

Stage: TypeAlias = Literal["weights before", "inputs", "outputs", "loss", "gradients", "weights", "optimizer steps"]
Norms: TypeAlias = Sequence[Mapping[str, float]]  # by rank and group of layers

# Of the norm of all groups: a smaller one is compared with this share of it.
_LEAST_SHARE = 1e-3
# Columns that are computed of others; tokens, masks and labels are there before.
_MADE_LATE = (
    "old_logprobs", "logprobs", "ref_logprobs", "teacher_ids", "teacher_logprobs", "values", "score", "baseline",
    "rewards", "returns", "advantages",
)  # fmt: skip
_MODULO, _HALF = 2**64, 2**32 - 1


@dataclass(frozen=True)
class Difference:
    """``tensor``: the column, or the group of layers. ``ranks``: those of the first run whose own part differs, where
    that can be said. ``samples``: their numbers within the step. ``apart``: as a share, where there is a number."""

    stage: Stage
    tensor: str
    ranks: tuple[int, ...] = ()
    samples: tuple[int, ...] = ()
    apart: float | None = None


@dataclass(frozen=True)
class Recorded:
    """An optimizer step as each rank has recorded it. ``before``: the weights that it began with, where they are
    known."""

    ranks: Sequence[StepTrace]
    zero_stage: int
    shared_by: int
    before: Norms | None

    @cached_property
    def samples(self) -> dict[int, tuple[int, int]]:
        """Of each sample that is told one by one the digest of what went in, and a rank that has it."""
        return {
            sample: (digest, number)
            for number, rank in reversed(list(enumerate(self.ranks)))
            if rank.micro_batches is not None and rank.samples is not None
            for sample, digest in zip(
                (one for micro in rank.micro_batches for one in micro), rank.samples, strict=False
            )
        }

    @property
    def all_told(self) -> bool:
        """Whether each of its samples is told."""
        return all(rank.micro_batches is not None for rank in self.ranks)

    def names(self, what: Literal["inputs", "outputs"]) -> dict[str, None]:
        """The columns there are."""
        return {name: None for rank in self.ranks for name in getattr(rank, what)}

    def columns(self, what: Literal["inputs", "outputs"], name: str) -> list[ColumnTrace | None]:
        """A column on each rank."""
        return [getattr(rank, what).get(name) for rank in self.ranks]

    def column(self, what: Literal["inputs", "outputs"], name: str) -> ColumnTrace | None:
        """A column over all samples; ranks that share rows count once."""
        own = [one for one in self.columns(what, name)[:: self.shared_by] if one is not None]
        if not own:
            return None
        total, size = (math.fsum(getattr(one, sum_) or 0.0 for one in own) for sum_ in ("total", "size"))
        digest = sum(one.digest for one in own) % _MODULO
        return ColumnTrace(digest) if own[0].total is None else ColumnTrace(digest, total, size)

    def whole(self, norms: Norms) -> Norms:
        """Norms of whole groups of layers, of the ranks' shares of them."""
        if self.zero_stage == 0:
            return norms[:1]
        return [{name: math.hypot(*(own.get(name, 0.0) for own in norms)) for name in norms[0]}]


@dataclass(frozen=True)
class Compared:
    """A step in both runs. ``summed``: their layouts differ, so that what is computed is compared over all ranks;
    ``allowed``: how far it may be apart, as a share; 0: bit for bit."""

    one: Recorded
    other: Recorded
    summed: bool
    allowed: float

    def differences(self) -> Iterator[Difference]:
        """All there are, causes before what follows from them."""
        one, other = self.one, self.other
        if one.before and other.before:
            yield from self._norms("weights before", one.before, other.before)
        yield from self._inputs()
        yield from self._outputs()
        yield from self._loss()
        stepped = [all(rank.gradients is not None for rank in side.ranks) for side in (one, other)]
        if stepped[0] != stepped[1]:
            yield Difference("gradients", f"none: the {'second' if stepped[0] else 'first'} run passed the step over")
        elif stepped[0]:
            yield from self._norms(
                "gradients", *([rank.gradients or {} for rank in side.ranks] for side in (one, other))
            )
        yield from self._norms("weights", *([rank.weights for rank in side.ranks] for side in (one, other)))

    def _inputs(self) -> Iterator[Difference]:
        one, other = self.one.samples, self.other.samples
        if self.one.all_told and self.other.all_told and one.keys() != other.keys():
            yield Difference("inputs", "samples", samples=tuple(sorted(one.keys() ^ other.keys())))
            return
        for name in sorted({**self.one.names("inputs"), **self.other.names("inputs")}, key=_made):
            yield from self._column("inputs", name)

    def _outputs(self) -> Iterator[Difference]:
        for name in {**self.one.names("outputs"), **self.other.names("outputs")}:
            yield from self._column("outputs", name)

    def _column(self, stage: Literal["inputs", "outputs"], name: str) -> Iterator[Difference]:
        """Whole numbers are compared bit for bit; all else is where nothing may be apart."""
        if self.summed:
            pairs = [(self.one.column(stage, name), self.other.column(stage, name))]
        else:
            pairs = list(zip(self.one.columns(stage, name), self.other.columns(stage, name), strict=True))
        apart = [_columns_apart(a, b) for a, b in pairs]
        whole = all(one is None or one.total is None for pair in pairs for one in pair)
        if self.allowed and not whole:
            yield from self._beyond(stage, name, [math.inf if share is None else share for share in apart])
            return
        ranks = tuple(rank for rank, (a, b) in enumerate(pairs) if (a and a.digest) != (b and b.digest))
        if not ranks:
            return
        samples = self._samples(ranks, whole=whole) if stage == "inputs" else ()
        if self.summed:
            ranks = tuple(sorted({self.one.samples[sample][1] for sample in samples}))
        yield Difference(stage, name, ranks, samples, None if whole else max(share or 0.0 for share in apart))

    def _samples(self, ranks: Sequence[int], *, whole: bool) -> tuple[int, ...]:
        """Those in which whole numbers differ, or all others; on the same layout of these ranks."""
        shift = 0 if whole else 32
        return tuple(
            sample
            for sample, (digest, rank) in sorted(self.one.samples.items())
            if sample in self.other.samples
            and (digest ^ self.other.samples[sample][0]) >> shift & _HALF
            and (self.summed or rank in ranks)
        )

    def _loss(self) -> Iterator[Difference]:
        one, other = ([rank.loss for rank in side.ranks] for side in (self.one, self.other))
        if self.summed:
            one, other = [math.fsum(one)], [math.fsum(other)]
        apart = [_apart(a, b, max(abs(a), abs(b))) for a, b in zip(one, other, strict=True)]
        yield from self._beyond("loss", "loss", apart)

    def _norms(self, stage: Stage, one: Norms, other: Norms) -> Iterator[Difference]:
        """The groups of layers, the one that differs most first."""
        if self.summed:
            one, other = self.one.whole(one), self.other.whole(other)
        found: list[Difference] = []
        for name in {**one[0], **other[0]}:
            apart = []
            for a, b in zip(one, other, strict=True):
                mine, theirs = a.get(name, math.nan), b.get(name, math.nan)
                apart.append(_apart(mine, theirs, max(mine, theirs, _LEAST_SHARE * math.hypot(*a.values()))))
            found += self._beyond(stage, name, apart)
        yield from sorted(found, key=lambda one: -(one.apart or 0.0))

    def _beyond(self, stage: Stage, tensor: str, apart: Sequence[float]) -> Iterator[Difference]:
        ranks = tuple(rank for rank, distance in enumerate(apart) if distance > self.allowed)
        if ranks:
            yield Difference(stage, tensor, () if self.summed else ranks, apart=max(apart))


def _made(name: str) -> int:
    """When in a step a column is made."""
    return _MADE_LATE.index(name) + 1 if name in _MADE_LATE else 0


def _columns_apart(one: ColumnTrace | None, other: ColumnTrace | None) -> float | None:
    """How far two sums are apart, as a share of what they are sums of; None where there are none to compare."""
    if one is other is None:
        return 0.0
    if one is None or other is None or one.total is None or other.total is None:
        return None
    return _apart(one.total, other.total, max(one.size or 0.0, other.size or 0.0))


def _apart(one: float, other: float, scale: float) -> float:
    """How far two numbers are apart, as a share of ``scale``; two that are no numbers are not apart."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    distance = abs(one - other) / scale if scale else math.inf
    return math.inf if math.isnan(distance) else distance
