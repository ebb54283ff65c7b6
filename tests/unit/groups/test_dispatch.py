from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.batches import Batch, Ragged
from distft.common.verb import Verb
from distft.groups.dispatch import (
    Outcome,
    Request,
    assemble,
    collect,
    regroup,
    request_for,
    samples_of,
)
from distft.groups.handles import Call, DataRef, Part


def batch(samples: list[int], column: str = "values", factor: float = 1.0) -> Batch:
    """Row of sample s: s + 1 times the number s * factor; and a dense column of its own."""
    rows = Ragged.of([[s * factor] * (s + 1) for s in samples], np.float32)
    dense = np.array(samples, np.float32) * factor
    return Batch({"sample": np.array(samples, np.int64), column: rows, f"{column}_dense": dense})


def call(reports: Literal["first", "all"] = "all", **fields: Any) -> Call[Any]:
    nobody: Any = None
    group: Any = SimpleNamespace(role="value")
    verb = Verb("forward", reports=reports)
    return Call(group=group, verb=verb, runner=nobody, read=lambda result: result, **fields)


# ---- assembling

SPLITS = st.lists(st.lists(st.integers(0, 40), unique=True, max_size=8), min_size=1, max_size=5)


@given(SPLITS, SPLITS, st.randoms())
def test_any_rows_of_any_two_splits_come_in_the_order_asked(
    first: list[list[int]], second: list[list[int]], random: Any
) -> None:
    def parts_of(split: list[list[int]]) -> list[list[int]]:
        seen: set[int] = set()
        return [[s for s in part if not (s in seen or seen.add(s))] for part in split]  # type: ignore[func-returns-value]

    ours, theirs = parts_of(first), parts_of(second)
    common = sorted({s for p in ours for s in p} & {s for p in theirs for s in p})
    asked = random.sample(common, random.randint(0, len(common)))
    got = assemble([[batch(p) for p in ours], [batch(p, "scores", 2.0) for p in theirs]], asked)
    assert got.dense("sample").tolist() == asked
    for row, sample in enumerate(asked):
        assert got.ragged("values")[row].tolist() == [float(sample)] * (sample + 1)
        assert got.ragged("scores")[row].tolist() == [2.0 * sample] * (sample + 1)
        assert got.dense("scores_dense")[row] == 2.0 * sample


def test_without_samples_asked_every_row_of_the_first_comes_in_its_order() -> None:
    got = assemble([[batch([3, 1]), batch([2])], [batch([1, 2, 3], "scores")]], None)
    assert got.dense("sample").tolist() == [3, 1, 2]
    assert got.dense("scores_dense").tolist() == [3.0, 1.0, 2.0]


def test_no_samples_make_an_empty_batch() -> None:
    for got in (assemble([[], []], ()), assemble([[]], None), assemble([[batch([1])]], [])):
        assert len(got) == 0
        assert got.dense("sample").dtype == np.int64


def test_a_whole_part_in_its_order_is_not_copied() -> None:
    part = batch([5, 2, 9])
    got = assemble([[part]], [5, 2, 9])
    assert np.shares_memory(got.ragged("values").values, part.ragged("values").values)


def test_only_needed_rows_are_taken_from_each_part() -> None:
    got = assemble([[batch([0, 1, 2]), batch([10, 11])]], [11, 1])
    assert got.ragged("values").lengths.tolist() == [12, 2]


def test_columns_of_two_results_must_agree() -> None:
    assert len(assemble([[batch([1, 2])], [batch([2, 1])]], [1, 2])) == 2
    with pytest.raises(ValueError, match="'values' comes from two results that disagree"):
        assemble([[batch([1, 2])], [batch([1, 2], factor=3.0)]], [1, 2])


def test_missing_and_doubled_samples_are_named() -> None:
    with pytest.raises(ValueError, match="sample 4 is in none of the parts"):
        assemble([[batch([1, 2])]], [1, 4])
    with pytest.raises(ValueError, match="sample 2 occurs twice"):
        assemble([[batch([1, 2]), batch([2])]], [1, 2])


# ---- to a rank


def test_a_rank_gets_its_arguments_and_only_the_parts_with_its_samples() -> None:
    data = (DataRef((Part("a", (0, 1)), Part("b", (2, 3)))), DataRef((Part("c", (3, 2, 1, 0)),)))
    asked = call(args=("x",), each=((1,), (2,), (3,)), data=data, samples=((1,), (), (2, 0)), kwargs={"entropy": True})
    sent = [request_for(asked, rank, 60.0) for rank in range(3)]
    assert [[part.ref for part in parts] for _, parts in sent] == [["a", "c"], [], ["a", "b", "c"]]
    assert [request.layout for request, _ in sent] == [(1, 1), (0, 0), (2, 1)]
    assert sent[2][0] == Request("value", "forward", ("x", 3), {"entropy": True}, False, (2, 0), (2, 1), 60.0)


def test_all_parts_go_where_no_samples_are_asked_and_none_where_there_is_no_data() -> None:
    data = (DataRef((Part("a", (0,)), Part("b", (1,)))),)
    request, parts = request_for(call(data=data), 1, 1.0)
    assert (request.layout, request.samples, len(parts)) == ((2,), None, 2)
    assert request_for(call(), 0, 1.0)[0].layout is None


def test_reports_of_other_ranks_stay_at_home_where_declared() -> None:
    kept = [request_for(call("first"), rank, 1.0)[0].keep_report for rank in (0, 1)]
    assert kept == [False, True]


def test_regroup_undoes_the_flattening() -> None:
    parts = [batch([i]) for i in range(5)]
    grouped = regroup(parts, (2, 0, 3))
    assert [[p.dense("sample")[0] for p in group] for group in grouped] == [[0, 1], [], [2, 3, 4]]


# ---- from a rank


def test_data_is_collected_from_the_ranks_that_hold_samples() -> None:
    outcomes = [Outcome(samples=(3, 1)), Outcome(samples=()), Outcome(samples=(2,)), Outcome()]
    data = collect(outcomes, ["a", "b", "c", "d"])
    assert data is not None
    assert [(part.ref, part.samples) for part in data.parts] == [("a", (3, 1)), ("c", (2,))]
    assert collect([Outcome(), Outcome()], ["a", "b"]) is None
    nothing = collect([Outcome(samples=())], ["a"])
    assert nothing is not None
    assert nothing.parts == ()


def test_a_batch_must_say_its_samples() -> None:
    assert samples_of(batch([4, 2])) == (4, 2)
    assert samples_of(None) is None
    assert samples_of(Batch({})) == ()
    with pytest.raises(ValueError, match=r"no column 'sample', only \['score'\]"):
        samples_of(Batch({"score": np.zeros(2, np.float32)}))
