"""The embedded corpus ``builtin:dialogues``: small English question-and-answer dialogues made from templates.

Someone says who they are and where they live and asks about a thing; the assistant answers. A *better*
answer opens politely, is about the asked thing, is not rude and closes with an offer or a wish; a *worse*
one lacks two or more of these. ``marks`` counts them, so the truth about any answer is known.

Every row holds all views: ``messages`` (a mixture of better and worse answers, so that a model trained
on them leaves room for improvement), ``prompt``, and ``chosen`` + ``rejected`` (the one with more marks is
chosen). Eval and test are about pairs of (thing, city) that no training row speaks of. The corpus is a
constant: it does not depend on a run's seed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

import numpy as np

Split: TypeAlias = Literal["train", "eval", "test"]
SPLITS: Final[tuple[str, ...]] = get_args(Split)
SIZES: Final[dict[str, int]] = {"train": 6000, "eval": 300, "test": 300}
MAX_MARKS: Final = 4
BETTER_MARKS: Final = 3  # an answer with so many marks or more counts as a better one

_SEED = 20_240_917
_HELD_OUT_PERCENT = 6  # of the (thing, city) pairs, for eval and for test each

NAMES: Final = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Iris", "Jack", "Kate", "Leo",
                "Mary", "Nick", "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor")  # fmt: skip
CITIES: Final = ("Athens", "Berlin", "Cairo", "Dublin", "Geneva", "Havana", "Istanbul", "Kyoto", "Lima", "London",
                 "Madrid", "Oslo", "Paris", "Prague", "Rome", "Seoul", "Sydney", "Tokyo", "Vienna",
                 "Warsaw")  # fmt: skip
THINGS: Final = ("bag", "bike", "blanket", "book", "bowl", "camera", "carpet", "chair", "clock", "coat", "drum",
                 "guitar", "hat", "jacket", "kettle", "ladder", "lamp", "mirror", "phone", "radio", "sofa", "table",
                 "tent", "vase")  # fmt: skip
_INTRODUCTIONS = ("Hello, I am {name} from {city}. I have a question about a {thing}.",
                  "Hi, my name is {name} and I live in {city}. It is about a {thing}.",
                  "This is {name} in {city}. I need help with a {thing}.")  # fmt: skip
# A topic: ways to ask, and ways to answer well.
_TOPICS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("Where can I buy a {thing}?", "Which shop sells a good {thing}?"),
     ("You can buy a {thing} at the market in {city}.", "The old shop near the station sells a good {thing}.")),
    (("Who can repair my {thing}?", "My {thing} is broken. What can I do?"),
     ("The workshop in {city} can repair your {thing}.", "Bring the {thing} to the workshop and ask for help.")),
    (("How do I clean a {thing}?", "My {thing} is dirty. How do I clean it?"),
     ("Clean the {thing} with warm water and a soft cloth.", "Wipe the {thing} with a soft cloth and let it dry.")),
    (("How do I send a {thing} to a friend?", "Can I send a {thing} by post?"),
     ("Pack the {thing} in a strong box and bring it to the post office.",
      "The post office in {city} can send your {thing}.")),
    (("I lost my {thing}. What should I do?", "Where should I look for my lost {thing}?"),
     ("Ask for your {thing} at the lost property office in {city}.", "Look for the {thing} where you last had it.")),
    (("Is a {thing} a good present?", "Should I give a {thing} to my sister?"),
     ("Yes, a {thing} is a good present.", "A {thing} is a fine present if she does not have one.")),
)  # fmt: skip
_OPENINGS = ("Of course, {name}.", "Happy to help, {name}.", "Good question, {name}.", "Thank you for asking, {name}.")
_CLOSINGS = ("Let me know if you need anything else.", "I hope that helps you.", "Have a nice day, {name}.",
             "Please ask me again at any time.")  # fmt: skip
_CURT = ("No idea.", "I do not know.", "Maybe.", "Ask someone else.", "Look it up.")
_RUDE = ("That is a silly question.", "Do not bother me with your {thing}.", "Why should I care?",
         "Leave me alone, {name}.", "Nobody likes your {thing}.")  # fmt: skip
_ASIDE = ("The weather in {city} is warm today.", "I like to sing in the morning.",
          "There are many people in {city}.", "My brother plays football on Sunday.")  # fmt: skip
_RUDE_MARKS = ("silly question", "bother me", "Why should I care", "Leave me alone", "Nobody likes")

# Styles: what an answer is put together from, sentence by sentence, and how often it is taken.
_BETTER: tuple[tuple[tuple[str, ...], int], ...] = (
    (("opening", "advice", "closing"), 5),
    (("advice", "closing"), 3),
    (("opening", "advice"), 2),
)
_WORSE: tuple[tuple[tuple[str, ...], int], ...] = (
    (("curt",), 4),
    (("rude",), 4),
    (("rude", "curt"), 2),
    (("advice", "rude"), 2),
    (("opening", "aside"), 3),
    (("aside", "aside_again"), 2),
    (("wrong_advice",), 2),
    (("opening", "wrong_advice"), 1),
)
# Close pairs: a full answer, and one that lacks its opening or its closing or speaks of another thing.
_CLOSE_PAIR_PERCENT = 20
_CLOSE: tuple[tuple[tuple[str, ...], int], ...] = (*_BETTER[1:], (("opening", "wrong_advice", "closing"), 3))

_T = TypeVar("_T")


class Picker:
    """Choices from the counter-based generator's raw words: the same on every version of numpy and Python."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Philox(key=np.array([seed, 0], dtype=np.uint64))

    def below(self, limit: int) -> int:
        return int(self._bits.random_raw()) % limit

    def one_of(self, choices: Sequence[_T]) -> _T:
        return choices[self.below(len(choices))]

    def shuffled(self, items: Sequence[_T]) -> list[_T]:
        """All of them in another order (Fisher and Yates)."""
        found = list(items)
        for last in range(len(found) - 1, 0, -1):
            other = self.below(last + 1)
            found[last], found[other] = found[other], found[last]
        return found

    def weighted(self, choices: Sequence[tuple[_T, int]]) -> _T:
        number = self.below(sum(weight for _, weight in choices))
        for choice, weight in choices:
            number -= weight
            if number < 0:
                return choice
        raise AssertionError("weights are positive")


def dialogues(split: Split = "train") -> Iterator[dict[str, Any]]:
    """The rows of a split, SIZES[split] of them, every question at most once.

    Columns: ``prompt`` (messages), ``chosen``, ``rejected`` (messages, one assistant turn each), ``messages``
    (the prompt and an answer, better or worse with equal chance), ``thing``, ``name``, ``city``.
    """
    picker = Picker(_SEED + SPLITS.index(split))
    seen: set[str] = set()
    while len(seen) < SIZES[split]:
        slots = {"name": picker.one_of(NAMES), "city": picker.one_of(CITIES), "thing": picker.one_of(THINGS)}
        asks, advice = picker.one_of(_TOPICS)
        question = f"{picker.one_of(_INTRODUCTIONS)} {picker.one_of(asks)}".format(**slots)
        if question in seen or split_by_pair()[slots["thing"], slots["city"]] != split:
            continue
        seen.add(question)
        yield _row(picker, question, advice, slots)


def marks(question: str, answer: str) -> int:
    """How good an answer is, 0 to MAX_MARKS: one mark each for a polite opening, for being about the asked
    thing and no other, for a friendly close, and for not being rude."""
    asked, named = _things(question), _things(answer)
    polite = any(answer.startswith(opening.split("{")[0]) for opening in _OPENINGS)
    about = bool(asked) and named == asked
    closes = any(_ends_with(answer, closing) for closing in _CLOSINGS)
    return int(polite) + int(about) + int(closes) + int(bool(answer.strip()) and not is_rude(answer))


def is_rude(answer: str) -> bool:
    """Whether an answer of ``dialogues``, or one like them, says something rude."""
    return any(rude in answer for rude in _RUDE_MARKS)


def _row(picker: Picker, question: str, advice: Sequence[str], slots: dict[str, str]) -> dict[str, Any]:
    if picker.below(100) < _CLOSE_PAIR_PERCENT:
        chosen, rejected = _BETTER[0][0], picker.weighted(_CLOSE)
    else:
        chosen, rejected = picker.weighted(_BETTER), picker.weighted(_WORSE)
    shown = picker.weighted(_BETTER if picker.below(2) else _WORSE)
    prompt = [{"role": "user", "content": question}]
    turns = {
        name: [{"role": "assistant", "content": _answer(picker, style, advice, slots)}]
        for name, style in (("chosen", chosen), ("rejected", rejected), ("messages", shown))
    }
    return {"prompt": prompt, **turns, "messages": prompt + turns["messages"], **slots}


def _answer(picker: Picker, style: Sequence[str], advice: Sequence[str], slots: dict[str, str]) -> str:
    others = [thing for thing in THINGS if thing != slots["thing"]]
    sentences = []
    for part in style:
        if part == "wrong_advice":
            sentences.append(picker.one_of(advice).format(**{**slots, "thing": picker.one_of(others)}))
            continue
        choices = {"opening": _OPENINGS, "advice": advice, "closing": _CLOSINGS, "curt": _CURT, "rude": _RUDE,
                   "aside": _ASIDE[:2], "aside_again": _ASIDE[2:]}[part]  # fmt: skip
        sentences.append(picker.one_of(choices).format(**slots))
    return " ".join(sentences)


@cache
def split_by_pair() -> dict[tuple[str, str], str]:
    """Every pair of (thing, city) belongs to one split for good."""
    picker = Picker(_SEED + len(SPLITS))
    shares = (("train", 100 - 2 * _HELD_OUT_PERCENT), ("eval", _HELD_OUT_PERCENT), ("test", _HELD_OUT_PERCENT))
    return {pair: picker.weighted(shares) for pair in product(THINGS, CITIES)}


def _things(text: str) -> set[str]:
    return set(re.findall(r"\w+", text)) & set(THINGS)  # whole words: "Bring" is no ring


def _ends_with(answer: str, closing: str) -> bool:
    head, _, tail = closing.partition("{name}")
    return re.search(re.escape(head) + (r"\w+" + re.escape(tail) if tail else "") + r"\s*$", answer) is not None
