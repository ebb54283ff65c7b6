"""The embedded corpus ``builtin:steps``: four numbers added up step by step, some of the ways wrong from some step on.

Every row holds ``prompt`` (``7 + 8 + 5 + 2 =`` and a line break), ``completions`` (``7 + 8 = 15``, ``15 + 5 = 20``,
...) and ``labels``: whether a step and all before it are right (as Lightman et al. 2023 label, who stop at the first
that is wrong). A step goes wrong in a quarter of the cases: its last digit, or its tens, is one off. What is added up
is in one split for good. Constants, as ``builtin:dialogues``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from distft.data.builtin import SPLITS, Picker, Split

NUM_STEPS: Final = 3
LARGEST: Final = 9  # of a number
SIZES: Final[dict[Split, int]] = {"train": 4000, "eval": 300, "test": 300}
_SEED = 2_026_112_801
_OFF_BY: tuple[tuple[int, int], ...] = ((0, 75), (1, 10), (-1, 5), (10, 10))  # and how often


def steps(split: Split = "train") -> Iterator[dict[str, Any]]:
    """The rows of a split."""
    picker, seen = Picker(_SEED + SPLITS.index(split)), set[tuple[int, ...]]()
    while len(seen) < SIZES[split]:
        numbers = tuple(1 + picker.below(LARGEST) for _ in range(NUM_STEPS + 1))
        if numbers not in seen and _split_of(numbers) == split:
            seen.add(numbers)
            yield _row(picker, numbers)


def _row(picker: Picker, numbers: tuple[int, ...]) -> dict[str, Any]:
    said, labels, total = [], list[bool](), numbers[0]
    for number in numbers[1:]:
        off = picker.weighted(_OFF_BY)
        said.append(f"{total} + {number} = {total + number + off}")
        labels.append(off == 0 and all(labels))
        total += number + off
    return {"prompt": f"{' + '.join(map(str, numbers))} =\n", "completions": said, "labels": labels}


def _split_of(numbers: tuple[int, ...]) -> Split:
    """By the numbers whatever their order: one in ten for eval and for test each."""
    place = sum(number * number for number in numbers) % 10
    return "eval" if place == 0 else "test" if place == 1 else "train"
