from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distft.experience.schedule import Schedule, minibatches, schedule
from tests.harness.work import calls

CAP = 100


@st.composite
def unit_sizes(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Lengths and units; a unit's samples are adjacent or scattered, numbers have gaps."""
    sizes = draw(st.lists(st.integers(1, 4), max_size=40))
    units = [3 * number + 1 for number, size in enumerate(sizes) for _ in range(size)]
    units = draw(st.permutations(units)) if draw(st.booleans()) else units
    lengths = draw(st.lists(st.integers(0, CAP // 4), min_size=len(units), max_size=len(units)))
    return lengths, list(units)


def _filled(result: Schedule) -> list[tuple[int, ...]]:
    return [samples for rank in result.micro_batches for samples in rank if samples]


def _check(
    result: Schedule, lengths: list[int], units: list[int], num_ranks: int, cap: int, *, packed: bool = False
) -> None:
    filled = _filled(result)
    assert sorted(itertools.chain(*filled)) == list(range(len(lengths)))
    assert len(result.micro_batches) == num_ranks
    assert {len(rank) for rank in result.micro_batches} == {result.num_micro_batches}
    assert result.num_micro_batches >= 1
    for rank, costs in zip(result.micro_batches, result.costs, strict=True):
        for samples, cost in zip(rank, costs, strict=True):
            padded = len(samples) * max((lengths[sample] for sample in samples), default=0)
            assert cost == (sum(lengths[sample] for sample in samples) if packed else padded) <= cap
    home = {sample: number for number, samples in enumerate(filled) for sample in samples}
    for unit in set(units):
        members = [sample for sample, other in enumerate(units) if other == unit]
        assert len({home[sample] for sample in members}) == 1
        samples = filled[home[members[0]]]
        start = samples.index(members[0])
        assert list(samples[start : start + len(members)]) == members
    expected = max(0, num_ranks * result.num_micro_batches - len(set(units)))
    assert result.num_dummies == expected


def _check_waiting(result: Schedule, num_ranks: int) -> None:
    steps = list(zip(*result.costs, strict=True))
    total, heaviest = sum(map(sum, steps)), max(map(max, steps))
    lasting = sum(map(max, steps))
    assert num_ranks * lasting <= total + (num_ranks - 1) * heaviest
    loads = [sum(costs) for costs in result.costs]
    assert max(loads) - min(loads) <= heaviest
    assert 0 <= result.imbalance < 1
    assert 0 <= result.padding_fraction < 1
    maxima = [max(step) for step in steps]
    assert maxima == sorted(maxima, reverse=True)


@given(unit_sizes(), st.integers(1, 9))
@settings(max_examples=200)
def test_every_guarantee_for_mixed_units(sample: tuple[list[int], list[int]], num_ranks: int) -> None:
    lengths, units = sample
    result = schedule(lengths, units, num_ranks, CAP)
    _check(result, lengths, units, num_ranks, CAP)
    _check_waiting(result, num_ranks)


@given(unit_sizes(), st.integers(1, 9), st.randoms(use_true_random=False), st.sampled_from([None, 0, 7, 60]))
@settings(max_examples=60)
def test_prompt_and_response_read_apart_are_padded_apart(
    sample: tuple[list[int], list[int]], num_ranks: int, random: Any, each: int | None
) -> None:
    """The cap holds for rows x (longest prompt + longest response), which a longest whole row would not show."""
    lengths, units = sample
    answers = [random.randint(0, length) for length in lengths]
    cap = 2 * CAP
    result = schedule(lengths, units, num_ranks, cap, micro_batch_cost=each, answers=answers)
    filled = _filled(result)
    assert sorted(itertools.chain(*filled)) == list(range(len(lengths)))
    assert len({tuple(map(len, result.micro_batches))}) == 1
    for rank, costs in zip(result.micro_batches, result.costs, strict=True):
        for samples, cost in zip(rank, costs, strict=True):
            prompts = max((lengths[one] - answers[one] for one in samples), default=0)
            assert cost == len(samples) * (prompts + max((answers[one] for one in samples), default=0)) <= cap
    assert result.num_tokens == sum(lengths)
    one_kind = schedule(lengths, units, num_ranks, cap, micro_batch_cost=each, answers=[0] * len(lengths))
    assert one_kind == schedule(lengths, units, num_ranks, cap, micro_batch_cost=each)


@given(unit_sizes(), st.integers(1, 9), st.sampled_from([None, 0, 7, 60]))
@settings(max_examples=100)
def test_packed_samples_cost_their_tokens(
    sample: tuple[list[int], list[int]], num_ranks: int, each: int | None
) -> None:
    lengths, units = sample
    result = schedule(lengths, units, num_ranks, CAP, micro_batch_cost=each, packed=True)
    _check(result, lengths, units, num_ranks, CAP, packed=True)
    assert result.padding_fraction == 0
    _check_waiting(result, num_ranks)
    if each is None:  # two micro-batches behind each other hold more than the cap
        assert result.num_micro_batches <= max(1, -(-(2 * sum(lengths) // CAP + 1) // num_ranks))


def test_samples_of_unlike_length_share_a_packed_row() -> None:
    lengths = [60, 20, 19, 1]
    assert schedule(lengths, range(4), 1, CAP, packed=True).costs == ((CAP,),)
    assert schedule(lengths, range(4), 1, CAP).num_micro_batches == 2


def test_a_packed_unit_above_the_cap_is_named_with_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"unit 7: .* it needs 101"):
        schedule([50, 51], [7, 7], 1, CAP, packed=True)


@pytest.mark.parametrize("more", [{"answers": [1]}, {"max_rows": 2}])
def test_what_packed_rows_do_not_have(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="packed row"):
        schedule([3], [0], 1, CAP, packed=True, **more)


def _fewest_bins(lengths: list[int], cap: int) -> int:
    """Of rows: filling from the longest down is optimal, and a lower bound when rows must stay together."""
    count, ordered = 0, sorted(lengths, reverse=True)
    while ordered:
        count, ordered = count + 1, ordered[cap // max(1, ordered[0]) :]
    return count


def _fewest_bins_exhaustive(lengths: list[int], rows: int, cap: int) -> int:
    """The fewest bins over every assignment of units of ``rows`` rows (restricted growth strings)."""

    def grow(bins: list[list[int]], rest: list[int]) -> int:
        if not rest:
            return len(bins)
        best = len(lengths)
        for number in range(len(bins) + 1):
            group = [*(bins[number] if number < len(bins) else []), rest[0]]
            if rows * len(group) * max(group) <= cap:
                grown = [*bins[:number], group, *bins[number + 1 :]]
                best = min(best, grow(grown, rest[1:]))
        return best

    return grow([], lengths)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=7), st.sampled_from([1, 2]), st.integers(1, 3))
@settings(max_examples=60)
def test_fewest_micro_batches_for_units_of_equal_size(lengths: list[int], rows: int, num_ranks: int) -> None:
    cap = 24
    samples = [length for length in lengths for _ in range(rows)]
    units = [number for number in range(len(lengths)) for _ in range(rows)]
    result = schedule(samples, units, num_ranks, cap)
    assert result.num_micro_batches == -(-_fewest_bins_exhaustive(lengths, rows, cap) // num_ranks)


@given(unit_sizes(), st.integers(1, 4))
def test_mixed_units_need_at_most_twice_the_fewest(sample: tuple[list[int], list[int]], num_ranks: int) -> None:
    lengths, units = sample
    longest = {unit: max(n for n, other in zip(lengths, units, strict=True) if other == unit) for unit in units}
    fewest = _fewest_bins([longest[unit] for unit in units], CAP)
    assert schedule(lengths, units, num_ranks, CAP).num_micro_batches <= max(1, -(-2 * fewest // num_ranks))


@given(unit_sizes(), st.integers(1, 9), st.integers(4, 8))
def test_every_guarantee_with_a_cap_on_rows(sample: tuple[list[int], list[int]], num_ranks: int, max_rows: int) -> None:
    lengths, units = sample
    result = schedule(lengths, units, num_ranks, CAP, max_rows)
    _check(result, lengths, units, num_ranks, CAP)
    _check_waiting(result, num_ranks)
    assert max(map(len, _filled(result)), default=0) <= max_rows


@given(unit_sizes(), st.integers(1, 9), st.integers(0, 60))
@settings(max_examples=200)
def test_every_guarantee_where_a_micro_batch_has_its_cost(
    sample: tuple[list[int], list[int]], num_ranks: int, each: int
) -> None:
    lengths, units = sample
    result = schedule(lengths, units, num_ranks, CAP, micro_batch_cost=each)
    _check(result, lengths, units, num_ranks, CAP)
    _check_waiting(result, num_ranks)
    fewest = schedule(lengths, units, num_ranks, CAP)
    assert result.lasting + each * result.num_micro_batches <= fewest.lasting + each * fewest.num_micro_batches


def _least_cost(lengths: list[int], each: int, cap: int) -> int:
    """Padded tokens plus ``each`` a bin, over every way of cutting the sorted rows."""
    ordered = sorted(lengths, reverse=True)
    least = cap * len(lengths) ** 2
    for cuts in itertools.product([False, True], repeat=len(ordered) - 1):
        starts = [0, *(number + 1 for number, cut in enumerate(cuts) if cut), len(ordered)]
        bins = [ordered[start:stop] for start, stop in itertools.pairwise(starts)]
        if all(len(rows) * rows[0] <= cap for rows in bins):
            least = min(least, sum(len(rows) * rows[0] + each for rows in bins))
    return least


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 40))
def test_one_rank_computes_the_least_that_any_cutting_allows(lengths: list[int], each: int) -> None:
    result = schedule(lengths, range(len(lengths)), 1, CAP, micro_batch_cost=each)
    assert result.lasting + each * result.num_micro_batches == _least_cost(lengths, each, CAP)


def test_rows_of_unlike_length_part_where_a_micro_batch_is_cheap() -> None:
    """By hand: 2 x 100 and 6 x 10 tokens cost 260 and two beginnings, together 800 and one."""
    lengths = [100, 10, 10, 100, 10, 10, 10, 10]
    apart = schedule(lengths, range(8), 1, 1000, micro_batch_cost=50)
    assert apart.micro_batches == (((0, 3), (1, 2, 4, 5, 6, 7)),)
    assert apart.padding_fraction == 0
    assert schedule(lengths, range(8), 1, 1000, micro_batch_cost=600).num_micro_batches == 1
    assert schedule(lengths, range(8), 1, 1000).num_micro_batches == 1


def test_rows_are_capped_for_short_samples_too() -> None:
    result = schedule([50] * 2 + [5] * 6, list(range(8)), 1, 100, max_rows=2)
    assert [len(samples) for samples in result.micro_batches[0]] == [2, 2, 2, 2]
    with pytest.raises(ValueError, match="unit 3: 3 rows do not fit into max_rows 2"):
        schedule([1, 1, 1, 1], [3, 3, 3, 4], 1, 100, max_rows=2)


@pytest.mark.parametrize(
    ("num_samples", "num_ranks", "cap", "per_rank", "dummies"),
    [(1, 4, 100, 1, 3), (10, 8, 100, 1, 0), (10, 8, 10, 2, 6), (0, 3, 100, 1, 3), (17, 8, 10, 3, 7)],
)
def test_counts_that_do_not_divide(num_samples: int, num_ranks: int, cap: int, per_rank: int, dummies: int) -> None:
    """Ten micro-batches on eight ranks: two each, never 2, 2, 2, 2, 2, 0, 0, 0."""
    lengths = [10] * num_samples
    result = schedule(lengths, list(range(num_samples)), num_ranks, cap)
    assert [len(rank) for rank in result.micro_batches] == [per_rank] * num_ranks
    assert result.num_dummies == dummies
    empty = [sum(not samples for samples in rank) for rank in result.micro_batches]
    assert max(empty) - min(empty) <= 1


def test_peers_of_a_micro_batch_cost_alike_and_padding_is_low() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).lognormal(5, 0.7, 512).clip(5, 1000)]
    result = schedule(lengths, list(range(512)), 4, 4096)
    assert result.padding_fraction < 0.06
    assert result.imbalance < 0.05
    fixed = [lengths[start : start + 16] for start in range(0, 512, 16)]
    padding_of_fixed_rows = 1 - sum(lengths) / sum(len(rows) * max(rows) for rows in fixed)
    assert padding_of_fixed_rows > 8 * result.padding_fraction


def test_the_heavier_peer_goes_to_the_rank_that_has_done_less() -> None:
    result = schedule([10, 6, 5, 1], [0, 1, 2, 3], 2, 10)
    assert result.costs == ((10, 1), (6, 5))
    assert result.imbalance == pytest.approx(1 - 22 / 30)


def test_all_ranks_work_when_one_micro_batch_would_hold_everything() -> None:
    result = schedule([7] * 9, list(range(9)), 4, 10_000)
    assert result.num_micro_batches == 1
    assert min(len(rank[0]) for rank in result.micro_batches) >= 1
    assert max(len(rank[0]) for rank in result.micro_batches) == 3


def test_deterministic_and_a_function_of_values_only() -> None:
    lengths, units = [5, 5, 9, 9, 2, 2, 9, 1], [0, 0, 1, 1, 2, 2, 3, 3]
    first = schedule(lengths, units, 2, 20)
    assert schedule(np.array(lengths), np.array(units, np.int32), 2, 20) == first
    assert all(type(sample) is int for samples in _filled(first) for sample in samples)


@pytest.mark.parametrize("cost", [None, 256])
def test_the_work_grows_with_the_samples(cost: int | None) -> None:
    """On 64 ranks. Ten thousand samples take some tenths of a second, so a million take less than a minute."""

    def work(num_samples: int) -> int:
        lengths = np.random.default_rng(0).integers(5, 2000, num_samples)
        return calls(lambda: schedule(lengths, np.arange(num_samples) // 2, 64, 8192, micro_batch_cost=cost))

    few, many = work(2_500), work(10_000)
    print(f"{few / 2_500:.1f} and {many / 10_000:.1f} calls a sample")
    assert many < 6 * few
    assert many < 100 * 10_000


def test_a_unit_above_the_cap_is_named_with_the_cap_it_needs() -> None:
    with pytest.raises(ValueError, match=r"unit 7: 2 x 60 tokens do not fit into max_tokens 100; it needs 120"):
        schedule([10, 60, 20], [5, 7, 7], 2, 100)
    with pytest.raises(ValueError, match=r"unit 7: its 110 tokens do not fit into max_tokens 100; it needs 110"):
        schedule([10, 60, 50], [5, 7, 7], 2, 100, packed=True)


@pytest.mark.parametrize(
    ("lengths", "units", "num_ranks", "cap"),
    [([1], [1, 2], 1, 9), ([1], [1], 0, 9), ([1], [1], 1, 0), ([-1], [1], 1, 9)],
)
def test_arguments_that_are_no_sizes(lengths: list[int], units: list[int], num_ranks: int, cap: int) -> None:
    with pytest.raises(ValueError, match="ranks, cap"):
        schedule(lengths, units, num_ranks, cap)


@given(unit_sizes(), st.integers(1, 5), st.integers(0, 2**40), st.integers(0, 3))
def test_minibatches_are_an_even_partition_of_whole_units(
    sample: tuple[list[int], list[int]], count: int, seed: int, epoch: int
) -> None:
    _, units = sample
    if count > len(set(units)):
        with pytest.raises(ValueError, match="units cannot make"):
            minibatches(units, count, seed, epoch)
        return
    parts = minibatches(units, count, seed, epoch)
    assert sorted(itertools.chain(*parts)) == list(range(len(units)))
    numbers = [{units[sample] for sample in part} for part in parts]
    assert sum(map(len, numbers)) == len(set(units))
    assert max(map(len, numbers)) - min(map(len, numbers)) <= 1
    for part in parts:
        for unit in {units[sample] for sample in part}:
            inside = [sample for sample in part if units[sample] == unit]
            assert inside == sorted(inside)


def test_minibatches_are_shuffled_by_seed_and_epoch_and_not_by_order_of_samples() -> None:
    units = list(range(32))
    first = minibatches(units, 4, seed=1, epoch=0)
    assert first == minibatches(units, 4, seed=1, epoch=0)
    others = [minibatches(units, 4, seed=1, epoch=1), minibatches(units, 4, seed=2, epoch=0)]
    assert all(set(first[0]) != set(other[0]) for other in others)
    assert first[0] != sorted(first[0])
    backward = minibatches(units[::-1], 4, seed=1, epoch=0)
    assert [[31 - sample for sample in part] for part in backward] == first


def test_the_shuffle_is_the_same_on_every_machine() -> None:
    assert minibatches([4, 4, 2, 9, 7, 7, 5], 2, seed=11, epoch=3) == [[6, 4, 5, 2], [3, 0, 1]]
