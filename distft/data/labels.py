"""What a column says of an answer: that it is a good one, or a bad one."""

from __future__ import annotations

from typing import Any, Final

_WORDS: Final = {"true": True, "false": False}
_NUMBERS: Final = {"1": True, "1.0": True, "0": False, "0.0": False}


def yes_or_no(value: Any) -> bool | None:
    """True or false, also in words, as a .csv file has it; None of all else: a number may be that of a class."""
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower())
    return value if isinstance(value, bool) else None


def label(value: Any) -> bool | None:
    """As ``yes_or_no`` where it is known that the column labels answers: 1 and 0 will do."""
    found = yes_or_no(value)
    return _NUMBERS.get(str(value).strip()) if found is None else found
