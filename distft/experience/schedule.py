"""Which sample goes to which rank and micro-batch: one central, pure decision.

ZeRO-3 ranks meet in a collective at every layer, so all of them run the same number of
micro-batches (missing ones are dummies), and a micro-batch lasts as long as the longest of its
peers on the other ranks. Samples are therefore sorted by length, cut into micro-batches under the
cap, and dealt out so that the m-th micro-batches of all ranks cost alike.

Two ways of cutting compete. *Fewest*: as few micro-batches as the cap allows, of nearly equal cost.
*Cheapest*: where one more micro-batch is known to cost as much as ``micro_batch_cost`` tokens (its
weights are gathered and read once more), the cuts that make padding and micro-batches together
cheapest, by dynamic programming. What takes the ranks less long is taken.

Guarantees (tested):

* every sample is in exactly one micro-batch, units whole and in order;
* cost = rows x longest row (what padding computes) is within the cap, and rows within theirs; where prompt and response
  are read apart, the longest row is the longest prompt and the longest response; of packed rows it is the sum of the
  lengths;
* every rank has the same number M of micro-batches. Without a ``micro_batch_cost`` M is the fewest
  possible if all units have the same number of rows; with mixed units the number of micro-batches is
  below twice the fewest. With it, ``lasting + M x micro_batch_cost`` is never above that of the fewest;
* an empty micro-batch exists only if there are fewer units than ranks x M;
* ``sum over m of max over ranks of cost <= total / ranks + (ranks - 1) / ranks * heaviest``: all
  the waiting together is less than one micro-batch, whatever the lengths.

A function of its arguments only: the same on every run and machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """``micro_batches[rank][m]`` are sample indices; ``()`` is a dummy. Equally many on every rank.

    Attributes:
        micro_batches: see above.
        costs: tokens that each computes, its padding among them, ``costs[rank][m]``; 0 for a dummy.
        num_tokens: real tokens of all samples.
    """

    micro_batches: tuple[tuple[tuple[int, ...], ...], ...]
    costs: tuple[tuple[int, ...], ...]
    num_tokens: int

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of each rank, dummies included."""
        return len(self.micro_batches[0])

    @property
    def num_dummies(self) -> int:
        """Empty micro-batches over all ranks."""
        return sum(not samples for rank in self.micro_batches for samples in rank)

    @property
    def padding_fraction(self) -> float:
        """Share of computed tokens that are padding; 0 for an empty schedule."""
        computed = sum(map(sum, self.costs))
        return 1 - self.num_tokens / computed if computed else 0.0

    @property
    def lasting(self) -> int:
        """Computed tokens of the heaviest peer of every micro-batch, added up: what the ranks' time goes with."""
        return sum(max(step) for step in zip(*self.costs, strict=True))

    @property
    def imbalance(self) -> float:
        """Share of the ranks' time spent waiting for the slowest peer, in [0, 1)."""
        busy = sum(map(sum, self.costs))
        return 1 - busy / (len(self.costs) * self.lasting) if self.lasting else 0.0


def schedule(
    lengths: Sequence[int] | Ints,
    units: Sequence[int] | Ints,
    num_ranks: int,
    max_tokens: int,
    max_rows: int | None = None,
    micro_batch_cost: int | None = None,
    answers: Sequence[int] | Ints = (),
    *,
    packed: bool = False,
) -> Schedule:
    """Deal samples out to ranks and micro-batches.

    Args:
        lengths: tokens of each sample, prompt and response.
        units: unit number of each sample; equal numbers stay in one micro-batch, in the order given.
        num_ranks: ranks of the group.
        max_tokens: cap on rows x longest row of a micro-batch, or on the tokens of a packed row.
        max_rows: cap on rows of a micro-batch, if any.
        micro_batch_cost: tokens in whose time a micro-batch more could be begun; None: as few as possible.
        answers: of ``lengths`` the tokens of each sample's response, where the model reads prompt and response apart,
            each padded to the longest of its own kind; else none.
        packed: the samples of a micro-batch share one row, without padding.

    Returns:
        A schedule of at least one micro-batch per rank, dummies if there is no sample.

    Raises:
        ValueError: a unit alone is above the cap (named, with the cap it needs), or arguments that
            are not sizes.
    """
    rows = np.asarray(lengths, np.int64)
    if num_ranks < 1 or max_tokens < 1 or rows.shape != np.shape(units) or (rows < 0).any():
        raise ValueError(
            f"{num_ranks} ranks, cap {max_tokens}, {len(lengths)} lengths (none below 0) and {len(units)} units"
        )
    members = _members(units)
    sizes = np.array([len(samples) for samples in members], np.int64)
    beside = np.asarray(answers, np.int64)
    parts = np.stack([rows - beside, beside] if len(answers) else [rows], axis=1)
    longest = _longest(parts, members, sizes)
    if packed:
        if len(answers) or max_rows is not None:
            raise ValueError("a packed row has no answers apart, and no cap on rows")
        sizes, longest = _sums(rows, members), np.ones_like(longest)  # as many rows of one token
    names = [int(units[samples[0]]) for samples in members]
    _require_fitting(names, sizes, longest.sum(axis=1), max_tokens, max_rows, packed=packed)
    order = np.argsort(-(sizes if packed else longest.sum(axis=1)), kind="stable")
    bins = _Bins(sizes[order], longest[order], int(sizes.sum()) if max_rows is None else max_rows)

    def dealt(cuts: Sequence[tuple[int, int]]) -> Schedule:
        filled = [
            (tuple(sample for unit in order[start:stop] for sample in members[unit]), bins.cost(start, stop))
            for start, stop in cuts
        ]
        return _deal(filled, num_ranks, int(rows.sum()))

    fewest = dealt(_spread(bins, num_ranks, max_tokens))
    if micro_batch_cost is None:
        return fewest
    cheapest = dealt(_fill_places(bins, _cheapest(bins, max_tokens, micro_batch_cost), num_ranks))
    return min(fewest, cheapest, key=lambda found: found.lasting + found.num_micro_batches * micro_batch_cost)


def _require_fitting(
    names: list[int], sizes: Ints, longest: Ints, max_tokens: int, max_rows: int | None, *, packed: bool
) -> None:
    """Every unit keeps to the caps by itself."""
    if (sizes * longest > max_tokens).any():
        worst = int(np.argmax(sizes * longest))
        its = f"its {sizes[worst]}" if packed else f"{sizes[worst]} x {longest[worst]}"
        raise ValueError(
            f"unit {names[worst]}: {its} tokens do not fit into max_tokens {max_tokens}; "
            f"it needs {sizes[worst] * longest[worst]}"
        )
    if max_rows is not None and (sizes > max_rows).any():
        worst = int(np.argmax(sizes))
        raise ValueError(f"unit {names[worst]}: {sizes[worst]} rows do not fit into max_rows {max_rows}")


class _Bins:
    """Runs of units sorted by longest row, longest first. ``longest [units, parts]``: each part of a row is padded to
    the longest of the run; of rows of one part that is the run's first unit."""

    def __init__(self, sizes: Ints, longest: Ints, max_rows: int) -> None:
        self.longest, self.max_rows = longest, max_rows
        self.rows = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self.heaviest_unit = int((sizes * longest.sum(axis=1)).max(initial=0))

    def __len__(self) -> int:
        return len(self.longest)

    def cost(self, start: int, stop: int) -> int:
        """Padded tokens of units ``start`` to ``stop``."""
        one = self.longest.shape[1] == 1
        longest = self.longest[start, 0] if one else self.longest[start:stop].max(axis=0).sum()
        return int((self.rows[stop] - self.rows[start]) * longest)

    def costs_to(self, low: int, stop: int) -> Ints:
        """``cost(start, stop)`` of every start from ``low`` on: the later, the less."""
        if self.longest.shape[1] == 1:
            longest = self.longest[low:stop, 0]
        else:
            longest = np.maximum.accumulate(self.longest[low:stop][::-1], axis=0)[::-1].sum(axis=1)
        return np.asarray((self.rows[stop] - self.rows[low:stop]) * longest, np.int64)

    def fill(self, cap: int) -> list[tuple[int, int]]:
        """Fill bins one after the other up to ``cap`` (at least `heaviest_unit`)."""
        cuts, start = [], 0
        while start < len(self):
            fits = self.rows[start] + min(self.max_rows, cap // max(1, int(self.longest[start].sum())))
            stop = max(start + 1, int(np.searchsorted(self.rows, fits, side="right")) - 1)
            if self.longest.shape[1] > 1:  # the longest of one kind may stand behind the longest whole
                longest = np.maximum.accumulate(self.longest[start:stop], axis=0).sum(axis=1)
                costs = (self.rows[start + 1 : stop + 1] - self.rows[start]) * longest
                stop = start + max(1, int(np.searchsorted(costs, cap, side="right")))
            cuts.append((start, stop))
            start = stop
        return cuts


def _spread(bins: _Bins, num_ranks: int, max_tokens: int) -> list[tuple[int, int]]:
    """Cut into as many bins as there are places (or units, if fewer), of nearly equal cost.

    The fewest bins under the cap fix the number of micro-batches per rank; then the smallest cap
    that needs no more places than that, by bisection; then no place is left empty, so that no rank
    idles and padding shrinks.
    """
    places = -(-max(1, len(bins.fill(max_tokens))) // num_ranks) * num_ranks
    low, high = bins.heaviest_unit, max_tokens
    while low < high:
        middle = (low + high) // 2
        if len(bins.fill(middle)) <= places:
            high = middle
        else:
            low = middle + 1
    return _fill_places(bins, bins.fill(high), places)


def _cheapest(bins: _Bins, max_tokens: int, each: int) -> list[tuple[int, int]]:
    """The cuts of least cost, where every bin costs its padded tokens and ``each`` besides.

    ``best[stop]`` is the least cost of units 0 to ``stop``. Longer bins cost more rows of longer ones, so
    the starts that the caps allow for a stop are a window that moves with it.
    """
    best = np.zeros(len(bins) + 1, np.int64)
    begun = np.zeros(len(bins) + 1, np.int64)
    low = 0
    for stop in range(1, len(bins) + 1):
        while bins.cost(low, stop) > max_tokens or bins.rows[stop] - bins.rows[low] > bins.max_rows:
            low += 1
        costs = best[low:stop] + bins.costs_to(low, stop) + each
        begun[stop] = low + int(np.argmin(costs))
        best[stop] = costs[begun[stop] - low]
    cuts, stop = [], len(bins)
    while stop:
        cuts.append((int(begun[stop]), stop))
        stop = int(begun[stop])
    return cuts[::-1]


def _fill_places(bins: _Bins, cuts: list[tuple[int, int]], num_places: int) -> list[tuple[int, int]]:
    """Halves the heaviest bins until their number is a multiple of ``num_places`` or every unit has its own."""
    places = -(-max(1, len(cuts)) // num_places) * num_places
    single = [cut for cut in cuts if cut[1] - cut[0] == 1]
    heap = [(-bins.cost(*cut), cut) for cut in cuts if cut[1] - cut[0] > 1]
    heapq.heapify(heap)
    while heap and len(heap) + len(single) < places:
        _, (start, stop) = heapq.heappop(heap)
        middle = (start + stop) // 2
        for part in ((start, middle), (middle, stop)):
            if part[1] - part[0] > 1:
                heapq.heappush(heap, (-bins.cost(*part), part))
            else:
                single.append(part)
    return single + [cut for _, cut in heap]


def _deal(filled: list[tuple[tuple[int, ...], int]], num_ranks: int, num_tokens: int) -> Schedule:
    """Heaviest first, one round per micro-batch; within a round the heaviest to the least loaded rank."""
    filled = sorted(filled, key=lambda item: (-item[1], item[0]))
    filled += [((), 0)] * (-len(filled) % num_ranks or (0 if filled else num_ranks))
    samples: list[list[tuple[int, ...]]] = [[] for _ in range(num_ranks)]
    costs: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for start in range(0, len(filled), num_ranks):
        ranks = sorted(range(num_ranks), key=lambda rank: (loads[rank], rank))
        for rank, (bin_samples, cost) in zip(ranks, filled[start : start + num_ranks], strict=True):
            samples[rank].append(bin_samples)
            costs[rank].append(cost)
            loads[rank] += cost
    return Schedule(tuple(map(tuple, samples)), tuple(map(tuple, costs)), num_tokens)


def minibatches(units: Sequence[int] | Ints, num_minibatches: int, seed: int, epoch: int) -> list[list[int]]:
    """Shuffle units into minibatches (one optimizer step each) for one pass over an experience.

    Depends on unit numbers, seed and epoch only, never on ranks or the order of samples. The
    random bits are Philox's with (seed, epoch) as key: a stream that is the same in every numpy.

    Args:
        units: unit number of each sample.
        num_minibatches: how many; their numbers of units differ by one at most.
        seed: of the run, or of the run and iteration.
        epoch: number of the pass.

    Returns:
        Sample indices of each minibatch, a unit's samples together and in order.

    Raises:
        ValueError: fewer units than minibatches, or no minibatch asked for.
    """
    members = _members(units)
    if not 1 <= num_minibatches <= len(members):
        raise ValueError(f"{len(members)} units cannot make {num_minibatches} minibatches")
    members.sort(key=lambda samples: int(units[samples[0]]))
    keys = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(len(members))
    order = np.argsort(keys, kind="stable")
    return [[sample for unit in part for sample in members[unit]] for part in np.array_split(order, num_minibatches)]


def _longest(parts: Ints, members: Sequence[Sequence[int]], sizes: Ints) -> Ints:
    """The longest of each part among a unit's samples, int64 [units, parts]."""
    if not members:
        return np.zeros((0, parts.shape[1]), np.int64)
    flat = np.fromiter((sample for samples in members for sample in samples), np.int64, len(parts))
    return np.asarray(np.maximum.reduceat(parts[flat], np.cumsum(sizes) - sizes, axis=0), np.int64)


def _sums(rows: Ints, members: Sequence[Sequence[int]]) -> Ints:
    """Tokens of each unit, int64 [units]."""
    return np.array([rows[list(samples)].sum() for samples in members], np.int64)


def _members(units: Sequence[int] | Ints) -> list[list[int]]:
    """Samples of each unit in the order given, units by first appearance."""
    found: dict[int, list[int]] = {}
    for sample, unit in enumerate(np.asarray(units, np.int64).tolist()):
        found.setdefault(unit, []).append(sample)
    return list(found.values())
