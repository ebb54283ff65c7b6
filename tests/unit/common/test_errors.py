from __future__ import annotations

import pytest

from distft.common.errors import EnvironmentFallsShort, RunFailed, UserError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\rb", "a\\rb"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("\ud800", "\\ud800"),
        ("für 東京 🜁\n  two lines", "für 東京 🜁\n  two lines"),
    ],
)
def test_a_message_moves_no_cursor(text: str, shown: str) -> None:
    assert str(UserError("what", where=text, hint=text)) == f"{shown}: what\n  {shown}"
    assert str(EnvironmentFallsShort(text)) == shown
    assert str(RunFailed(text, role="policy", rank=1)) == f"policy rank 1: {shown}"
