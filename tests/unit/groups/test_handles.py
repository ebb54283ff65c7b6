from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from distft.common.verb import Verb
from distft.groups.handles import Call, DataRef, Part, Result, Wait, together

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
    """A group that answers with the verbs that it was asked to start at once, and writes down who is waited for."""

    role, num_ranks, micro_batch_cost, workers = "policy", 1, None, ()

    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, calls: Sequence[Call[Any]]) -> tuple[Wait, ...]:
        names = [call.verb.name for call in calls]
        self.said.append(f"start {' '.join(names)}")
        return tuple(partial(self._wait, names, position) for position in range(len(calls)))

    def _wait(self, names: list[str], position: int) -> Result[Any]:
        self.said.append(f"wait {names[position]}")
        return Result(names, (position,), None, 0.0)

    def call(self, verb: Verb, *_: Any, **__: Any) -> Call[Result[Any]]:
        return Call(group=self, verb=verb, runner=self, read=lambda result: result)


FORWARD, UPDATE = Verb("forward"), Verb("update")


def test_together_starts_all_calls_at_once_and_keeps_their_order() -> None:
    group = Recorder()
    first, second = together(group.call(FORWARD), group.call(UPDATE))
    assert first.report == ["forward", "update"]
    assert (first.reports, second.reports) == ((0,), (1,))
    assert group.said == ["start forward update", "wait forward", "wait update"]
    assert group.call(FORWARD).result().report == ["forward"]
    assert together() == ()


def test_what_is_started_goes_on_beside_what_comes_before_its_result() -> None:
    group = Recorder()
    updating = group.call(UPDATE).start()
    ahead = group.call(FORWARD).start()
    updating.result(), ahead.result()
    assert group.said == ["start update", "start forward", "wait update", "wait forward"]


def test_an_answer_is_read_step_by_step() -> None:
    call = Recorder().call(FORWARD).reading(lambda result: result.report).reading(len)
    assert call.result() == call.start().result() == 1
    assert together(call) == (1,)


def test_together_refuses_calls_of_groups_not_started_together() -> None:
    one, other = Recorder(), Recorder()
    with pytest.raises(ValueError, match="not started together"):
        together(one.call(FORWARD), other.call(FORWARD))
    assert one.said == other.said == [], "nothing was sent"
