"""Reward functions that a rule checks."""

from __future__ import annotations

import pytest

from distft.rollout.rewards import exact_match, format_penalty, last_number, length_penalty, matches


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


def test_a_regular_expression_is_found_or_not() -> None:
    said = ["a cat", "a dog", "CAT"]
    assert matches([""] * 3, said, pattern=r"\bcat\b") == [1, 0, 0]
    assert matches([""] * 3, said, pattern=r"(?i)\bcat\b", answer=[None] * 3) == [1, 0, 1]


def test_a_group_holds_the_answer_where_it_is_found_last() -> None:
    said = ["<a> 4 </a>", "<a>5</a> no, <a>4</a>", "<a>4</a> or <a>5</a>", "4", ""]
    assert matches([""] * 5, said, answer=["4", 4, "4", "4", ""], pattern="<a>(.*?)</a>") == [1, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="column answer"):
        matches([""], ["<a>4</a>"], pattern="<a>(.*?)</a>")
    with pytest.raises(ValueError, match="has 2 groups"):
        matches([""], [""], answer=[""], pattern="(a)(b)")


def test_another_form_costs_a_point() -> None:
    said = ["<think>x</think> 4\n", "4", "so <think>x</think> 4"]
    assert format_penalty([""] * 3, said, pattern=r"<think>.*</think>\s*\d+", answer=["4"] * 3) == [0, -1, -1]
    for function in (matches, format_penalty):
        with pytest.raises(ValueError, match="no regular expression"):
            function([""], [""], pattern="(")


def test_length_costs_evenly_up_to_a_point() -> None:
    said = ["", "a" * 10, "a" * 11, "a" * 12, "a" * 14, "a" * 99]
    assert length_penalty([""] * 6, said, limit=10, buffer=4) == [0, 0, -0.25, -0.5, -1, -1]
    with pytest.raises(ValueError, match="buffer at least 1"):
        length_penalty([""], [""], limit=10, buffer=0)
