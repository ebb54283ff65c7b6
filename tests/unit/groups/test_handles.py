from __future__ import annotations

from typing import Any

import pytest

from distft.groups.handles import Call, DataRef, Part, Result, together

DATA = DataRef((Part("a", (4, 2)), Part("b", (7,)), Part("c", (0, 1))))


def test_samples_follow_the_parts() -> None:
    assert DATA.samples == (4, 2, 7, 0, 1)


def test_select_keeps_only_the_parts_needed_whole_and_in_order() -> None:
    assert [part.ref for part in DATA.select([1, 2]).parts] == ["a", "c"]
    assert DATA.select([]).parts == ()
    assert DATA.select([7]).samples == (7,)


def test_select_names_what_is_missing() -> None:
    with pytest.raises(ValueError, match="samples 5, 9 are not among the 5 here"):
        DATA.select([9, 5, 4])


def test_a_sample_may_be_in_one_place_only() -> None:
    with pytest.raises(ValueError, match="sample 2 occurs twice"):
        DataRef((Part("a", (1, 2)), Part("b", (2,))))


class Recorder:
    """A group that answers with the names of the verbs it ran together."""

    role, num_ranks, workers = "policy", 1, ()

    def run(self, calls: Any) -> tuple[Result, ...]:
        return tuple(Result([c.verb for c in calls], (position,), None, 0.0) for position, c in enumerate(calls))

    def call(self, verb: str, *_: Any, **__: Any) -> Call:
        return Call(group=self, verb=verb, run=self.run)


def test_together_starts_all_calls_at_once_and_keeps_their_order() -> None:
    group = Recorder()
    first, second = together(group.call("forward"), group.call("update"))
    assert first.report == ["forward", "update"]
    assert (first.reports, second.reports) == ((0,), (1,))
    assert group.call("save").result().report == ["save"]
    assert together() == ()


def test_together_refuses_calls_of_groups_not_started_together() -> None:
    with pytest.raises(ValueError, match="not started together"):
        together(Recorder().call("forward"), Recorder().call("forward"))
