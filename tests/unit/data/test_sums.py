"""The embedded sums: true, and never the same two numbers in two splits."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from distft.data.builtin import SPLITS
from distft.data.sums import LARGEST, SLIPS_PER_SUM, slips, sums


def pairs(split: str) -> list[frozenset[int]]:
    return [frozenset(map(int, re.findall(r"\d+", row["prompt"]))) for row in sums(split)]  # type: ignore[arg-type]


def test_no_pair_of_numbers_is_in_two_splits() -> None:
    found = {split: set(pairs(split)) for split in SPLITS}
    assert all(not found[one] & found[other] for one, other in combinations(SPLITS, 2))
    assert sum(len(list(sums(split))) for split in SPLITS) == (LARGEST + 1) ** 2  # type: ignore[arg-type]
    assert len(pairs("eval")) >= 200


def test_every_row_is_true_and_says_so_twice() -> None:
    for split in SPLITS:
        for row in sums(split):  # type: ignore[arg-type]
            a, b = map(int, re.findall(r"\d+", row["prompt"]))
            assert row == {"prompt": f"{a} + {b} =", "completion": f" {a + b}", "answer": f"{a + b}"}


def test_slips_are_the_same_sums_and_one_in_fifty_is_right() -> None:
    for split in SPLITS:
        true, said = list(sums(split)), list(slips(split))  # type: ignore[arg-type]
        answers = {row["prompt"]: row["answer"] for row in true}
        assert {row["prompt"]: row["answer"] for row in said} == answers
        assert len(said) == SLIPS_PER_SUM * len(true)
        off = [int(row["completion"]) - int(row["answer"]) for row in said]
        assert set(off) == {-10, 0, 10}
        assert min(int(row["completion"]) for row in said) >= 0
        assert sum(one == 0 for one in off) / len(off) == pytest.approx(0.02, abs=0.01)
