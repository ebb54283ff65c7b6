from __future__ import annotations

from distft.groups.deadlines import DeadlineBook, Deadlines
from distft.groups.dispatch import Verb

RULE = Deadlines(floor_s=10.0, factor=5.0, start_s=100.0)


def test_usual_verbs_have_the_floor_until_they_are_known_to_take_longer() -> None:
    book = DeadlineBook(RULE)
    assert book.deadline("policy", "update", Verb()) == 10.0
    book.saw("policy", "update", 1.0)
    assert book.deadline("policy", "update", Verb()) == 10.0
    book.saw("policy", "update", 4.0)
    book.saw("policy", "update", 3.0)
    assert book.deadline("policy", "update", Verb()) == 20.0


def test_roles_and_verbs_are_known_apart() -> None:
    book = DeadlineBook(RULE)
    book.saw("policy", "update", 40.0)
    assert book.deadline("value", "update", Verb()) == 10.0
    assert book.deadline("policy", "forward", Verb()) == 10.0


def test_long_verbs_have_the_start_deadline_once_and_setup_always() -> None:
    book = DeadlineBook(RULE)
    for name in ("long", "setup"):
        assert book.deadline("policy", name, Verb(deadline=name)) == 100.0
        book.saw("policy", name, 3.0)
    assert book.deadline("policy", "long", Verb(deadline="long")) == 15.0
    assert book.deadline("policy", "setup", Verb(deadline="setup")) == 100.0
    book.saw("policy", "setup", 30.0)
    assert book.deadline("policy", "setup", Verb(deadline="setup")) == 150.0
