"""The embedded corpus ``builtin:stories``: short English stories made from templates, a ``text`` and its ``label``.

Someone in a city and a thing: it was bought, lost, sent, mended, cleaned or given away. The ``label`` says which; no
sentence does so by that word. One story in four goes on for several days, so that it is longer than the others by far.
Eval and test are about pairs of (thing, city) that no training row speaks of. A constant, as ``builtin:dialogues``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from distft.data.builtin import CITIES, NAMES, SPLITS, THINGS, Picker, Split, split_by_pair

LABELS: Final = ("clean", "gift", "loss", "purchase", "repair", "shipment")
STORY_SIZES: Final[dict[str, int]] = {"train": 3000, "eval": 300, "test": 300}
_SEED = 20_261_201
BEGINNINGS = ("{name} lives in {city}.", "This happened to {name} in {city}.", "On Monday {name} came back to {city}.",
               "{name} has a small house in {city}.")  # fmt: skip
# What happens to the thing, in the order of LABELS.
EVENTS: tuple[tuple[str, ...], ...] = (
    ("{name} wiped the dust off the {thing} with a soft cloth.", "There was mud on the {thing}, so {name} washed it.",
     "With warm water and soap the {thing} became bright again."),
    ("{name} put a ribbon on the {thing} for a sister's birthday.", "The {thing} was a surprise for a friend.",
     "A friend unpacked the {thing} and thanked {name}."),
    ("{name} left the {thing} on a train and never saw it again.", "Nobody could tell {name} where the {thing} was.",
     "{name} looked for the {thing} in every room of the house."),
    ("In a shop {name} paid ten coins for a {thing}.", "{name} chose the largest {thing} at the market.",
     "The seller at the market asked a fair price for the {thing}."),
    ("The {thing} was broken, and {name} brought it to the workshop.", "With a screw and some glue the {thing} held.",
     "At the workshop they put the two halves of the {thing} together."),
    ("{name} put the {thing} into a strong box and wrote an address on it.",
     "The post office took the {thing} across the sea.", "Two weeks later the box with the {thing} arrived."),
)  # fmt: skip
DAYS = ("It rained that day.", "The streets of {city} were full of people.", "In the evening {name} made tea.",
         "The bus to {city} was late.", "{name} slept well that night.", "A dog was barking in the yard.",
         "The next day was warm and quiet.", "{name} read a letter at the window.")  # fmt: skip
_ENDS = ("So ended the day.", "{name} often speaks of it.", "That is all there is to tell.")
_LONG_PERCENT, _LONG = 25, 24  # of the stories, and further sentences of such a one


def stories(split: Split = "train") -> Iterator[dict[str, Any]]:
    """The rows of a split, ``STORY_SIZES`` of them, no text twice. Columns: ``text``, ``label``."""
    picker, seen = Picker(_SEED + SPLITS.index(split)), set[str]()
    while len(seen) < STORY_SIZES[split]:
        slots = {"name": picker.one_of(NAMES), "city": picker.one_of(CITIES), "thing": picker.one_of(THINGS)}
        label = picker.below(len(LABELS))
        text = " ".join(_sentences(picker, EVENTS[label])).format(**slots)
        if text in seen or split_by_pair()[slots["thing"], slots["city"]] != split:
            continue
        seen.add(text)
        yield {"text": text, "label": LABELS[label]}


def _sentences(picker: Picker, events: Sequence[str]) -> Iterator[str]:
    yield picker.one_of(BEGINNINGS)
    yield picker.one_of(DAYS)
    yield picker.one_of(events)
    for _ in range(_LONG if picker.below(100) < _LONG_PERCENT else picker.below(3)):
        yield picker.one_of(DAYS)
    yield picker.one_of(_ENDS)
