"""The embedded corpus ``builtin:questions``: questions about what happened to a thing in a city, and who tells it.

Columns: ``anchor``, the question; ``positive``, a short text that answers it in other words; ``negative``, one about
the same thing in the same city, to which something else happened. Eval and test are about pairs of (thing, city) that
no training row speaks of, and ask every question once. A constant, as ``builtin:dialogues``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, Final

from distft.data.builtin import NAMES, SPLITS, Picker, Split, split_by_pair
from distft.data.stories import BEGINNINGS, DAYS, EVENTS

_SEED: Final = 20_261_128
# Ways to ask for each of EVENTS.
_QUESTIONS: Final = (
    ("Who cleaned a {thing} in {city}?", "How did the dirty {thing} in {city} get clean?"),
    ("Who gave a {thing} as a gift in {city}?", "For whom was the {thing} in {city} a present?"),
    ("Who lost a {thing} in {city}?", "Which {thing} is missing in {city}?"),
    ("Who bought a {thing} in {city}?", "What did the new {thing} in {city} cost?"),
    ("Who had a {thing} repaired in {city}?", "How was the {thing} in {city} mended?"),
    ("Who sent a {thing} from {city}?", "How was the {thing} from {city} shipped?"),
)


def questions(split: Split = "train") -> Iterator[dict[str, Any]]:
    """The rows of a split, in an order of their own."""
    picker = Picker(_SEED + SPLITS.index(split))
    pairs = [pair for pair, its_split in split_by_pair().items() if its_split == split]
    asked = [(event, *pair) for event, pair in product(range(len(EVENTS)), pairs)]
    while asked:
        event, thing, city = asked.pop(picker.below(len(asked)))
        other = picker.below(len(EVENTS) - 1)
        yield {
            "anchor": picker.one_of(_QUESTIONS[event]).format(thing=thing, city=city),
            "positive": _told(picker, event, thing, city),
            "negative": _told(picker, other + (other >= event), thing, city),
        }


def _told(picker: Picker, event: int, thing: str, city: str) -> str:
    beginning = picker.one_of([one for one in BEGINNINGS if "{city}" in one])
    sentences = (beginning, picker.one_of(EVENTS[event]), picker.one_of(DAYS))
    return " ".join(sentences).format(name=picker.one_of(NAMES), thing=thing, city=city)
