from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from distft.common.verb import Recalled, Verb
from distft.groups.handles import Call
from distft.groups.recall import Recall

SETUP, UNREAD, RECEIVE = (
    Verb("setup", recalled="latest"),
    Verb("unread", recalled="latest"),
    Verb("receive", recalled="renewed"),
)
BEGIN, TAKE, FINISH = (Verb(name, recalled=cast(Recalled, name)) for name in ("begins", "follows", "ends"))
BATCH = Verb("batch")


@dataclass
class Asked:
    verb: Verb
    number: int
    renew: None = None


def told(*verbs: Verb, asked_next: Verb | None = None) -> list[tuple[str, int]]:
    """What is asked again, after these verbs were asked: each one's name, and as which it was asked."""
    recall = Recall()
    for number, verb in enumerate(verbs):
        recall.note(cast(Call[Any], Asked(verb, number)), (number,))
    assert all(one.reports == (cast(Any, one.call).number,) for one in recall.told)
    return [(one.call.verb.name, cast(Any, one.call).number) for one in recall.without(asked_next)]


def test_the_latest_call_of_what_leaves_something_and_nothing_else() -> None:
    assert told(SETUP, BATCH, UNREAD, BATCH, UNREAD) == [("setup", 0), ("unread", 4)]
    assert told(SETUP, RECEIVE, BATCH, RECEIVE) == [("setup", 0), ("receive", 3)]


def test_all_calls_from_a_beginning_to_its_end() -> None:
    assert told(SETUP, BEGIN, TAKE, TAKE) == [("setup", 0), ("begins", 1), ("follows", 2), ("follows", 3)]
    assert told(SETUP, BEGIN, TAKE, FINISH) == [("setup", 0)]
    assert told(BEGIN, TAKE, BEGIN, TAKE) == [("begins", 2), ("follows", 3)]


@pytest.mark.parametrize("verb", [SETUP, RECEIVE])
def test_what_is_asked_anyway_is_not_asked_twice(verb: Verb) -> None:
    assert (verb.name, 0) in told(verb, BATCH)
    assert told(verb, BATCH, asked_next=verb) == []
    assert told(BEGIN, TAKE, asked_next=TAKE) == [("begins", 0), ("follows", 1)], "this one is the next"
