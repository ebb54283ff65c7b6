"""Reward functions that a rule checks."""

from __future__ import annotations

import pytest

from distft.rollout.rewards import exact_match, last_number


def test_the_last_number_is_the_answer() -> None:
    said = ["17 + 8 = 25", "25 is right, not 26", "it is -3.50.", "so 1,250.0 it is", "10-3", "no idea"]
    right = ["25", "25", "-3.5", "#### 1250", 3, "0"]
    assert last_number([""] * 6, said, answer=right, source=["a"] * 6) == [1, 0, 1, 1, 1, 0]


def test_an_exact_match_is_the_whole_answer() -> None:
    assert exact_match([""] * 4, [" 25", "25\n", "25.", "so 25"], answer=[25, "25", "25", "25"]) == [1, 1, 0, 0]


def test_rows_without_an_answer_are_said() -> None:
    for function in (exact_match, last_number):
        with pytest.raises(ValueError, match="column answer"):
            function([""], ["25"])
        with pytest.raises(ValueError, match="column answer"):
            function(["", ""], ["25", "26"], answer=["25", None])
    with pytest.raises(ValueError, match="'none' has no number"):
        last_number([""], ["25"], answer=["none"])
