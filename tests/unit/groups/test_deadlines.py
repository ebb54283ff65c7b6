from __future__ import annotations

from distft.common.verb import Verb
from distft.groups.deadlines import DeadlineBook, Deadlines

RULE = Deadlines(floor_s=10.0, factor=5.0, start_s=100.0)


def test_usual_verbs_have_the_floor_until_they_are_known_to_take_longer() -> None:
    book = DeadlineBook(RULE)
    assert book.deadline("policy", Verb("update")) == 10.0
    book.saw("policy", Verb("update"), 1.0)
    assert book.deadline("policy", Verb("update")) == 10.0
    book.saw("policy", Verb("update"), 4.0)
    book.saw("policy", Verb("update"), 3.0)
    assert book.deadline("policy", Verb("update")) == 20.0


def test_roles_and_verbs_are_known_apart() -> None:
    book = DeadlineBook(RULE)
    book.saw("policy", Verb("update"), 40.0)
    assert book.deadline("value", Verb("update")) == 10.0
    assert book.deadline("policy", Verb("forward")) == 10.0


def test_long_verbs_have_the_start_deadline_once_and_setup_always() -> None:
    book = DeadlineBook(RULE)
    for name in ("long", "setup"):
        assert book.deadline("policy", Verb(name, deadline=name)) == 100.0
        book.saw("policy", Verb(name), 3.0)
    assert book.deadline("policy", Verb("long", deadline="long")) == 15.0
    assert book.deadline("policy", Verb("setup", deadline="setup")) == 100.0
    book.saw("policy", Verb("setup"), 30.0)
    assert book.deadline("policy", Verb("setup", deadline="setup")) == 150.0
