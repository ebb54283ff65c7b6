"""The calculator: arithmetic and nothing else."""

from __future__ import annotations

import pytest

from distft.rollout.calculator import Calculator, calculated


@pytest.mark.parametrize(
    ("expression", "value"),
    [("17*48", "816"), (" 3 * (4 + 5) ", "27"), ("-2+1", "-1"), ("7/2", "3.5"), ("6/3", "2"), ("1e3", "1000"),
     ("1/0", "error"), ("9**9**9", "error"), ("__import__('os')", "error"), ("True+1", "error"), ("1+", "error"),
     ("", "error"), ("1" * 100, "error"), ("9" * 12 + "*99", "error"), ("1e400", "error"), ("1j", "error"),
     ("(" * 79, "error"), ("1\x00", "error")],
)  # fmt: skip
def test_values(expression: str, value: str) -> None:
    assert calculated(expression) == value


def test_a_call_is_answered_and_an_answer_rewarded() -> None:
    one = Calculator()
    one.reset({"prompt": "17*48", "answer": 816})
    assert one.step("calc 17*48") == ("816", 0.0, False)
    assert one.step("calc:\n1 + 1") == ("2", 0.0, False)
    assert one.step("calc17*48") == one.step("calcium") == (None, 0.0, True), "no call: another word"
    assert one.step(" 816\n") == (None, 1.0, True)
    assert one.step("815") == (None, 0.0, True)


def test_a_row_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="no column answer"):
        Calculator().reset({"prompt": "1+1"})
