"""Tokenizers of encoders: their models read a text, or a pair of them, as a whole, every token seeing all others.

A tokenizer does not know what its model is, and everything that makes tokens of rows is given the tokenizer. So what
loads one says it, and it stays with the tokenizer; it is part of what tells two of them apart.
"""

from __future__ import annotations

from typing import Any, Final

_MARK: Final = "distft_reads_both_ways"


def mark_both_ways(tokenizer: Any) -> None:
    """Of a tokenizer whose model is an encoder."""
    setattr(tokenizer, _MARK, True)


def reads_both_ways(tokenizer: Any) -> bool:
    """Whether its model is an encoder: texts have the tokenizer's special tokens around them, at both ends."""
    return bool(getattr(tokenizer, _MARK, False))
