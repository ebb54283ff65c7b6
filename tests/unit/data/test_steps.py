"""Steps of additions: labelled as they are, in one split for good."""

from __future__ import annotations

import re

from distft.data.builtin import SPLITS
from distft.data.steps import NUM_STEPS, SIZES, steps


def test_a_step_is_right_where_it_and_all_before_are() -> None:
    seen: dict[tuple[int, ...], str] = {}
    for split in SPLITS:
        rows = list(steps(split))  # type: ignore[arg-type]
        assert len(rows) == SIZES[split]  # type: ignore[index]
        for row in rows:
            numbers = [int(one) for one in re.findall(r"\d+", row["prompt"])]
            right = [sum(numbers[: place + 2]) for place in range(NUM_STEPS)]
            said = [int(step.rpartition("= ")[2]) for step in row["completions"]]
            agree = [one == other for one, other in zip(said, right, strict=True)]
            assert row["labels"] == [all(agree[: place + 1]) for place in range(NUM_STEPS)]
            assert seen.setdefault(tuple(sorted(numbers)), split) == split
        labels = [label for row in rows for label in row["labels"]]
        assert 0.4 < sum(labels) / len(labels) < 0.8
