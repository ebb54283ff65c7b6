"""The embedded sums: true, and never the same two numbers in two splits."""

from __future__ import annotations

import re
from itertools import combinations

from distft.data.builtin import SPLITS
from distft.data.sums import LARGEST, sums


def pairs(split: str) -> list[frozenset[int]]:
    return [frozenset(map(int, re.findall(r"\d+", row["prompt"]))) for row in sums(split)]  # type: ignore[arg-type]


def test_no_pair_of_numbers_is_in_two_splits() -> None:
    found = {split: set(pairs(split)) for split in SPLITS}
    assert all(not found[one] & found[other] for one, other in combinations(SPLITS, 2))
    assert sum(len(list(sums(split))) for split in SPLITS) == (LARGEST + 1) ** 2  # type: ignore[arg-type]
    assert len(pairs("eval")) >= 30


def test_every_row_is_true_and_says_so_twice() -> None:
    for split in SPLITS:
        for row in sums(split):  # type: ignore[arg-type]
            a, b = map(int, re.findall(r"\d+", row["prompt"]))
            assert row == {"prompt": f"{a} + {b} =", "completion": f" {a + b}", "answer": f"{a + b}"}
