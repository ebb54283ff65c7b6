"""How a tokenizer's model reads a row, where it is no decoder, which reads prompt and answer as one text.

A tokenizer does not know what its model is, and everything that makes tokens of rows is given the tokenizer. So what
loads one says it, and it stays with the tokenizer; it is part of what tells two of them apart.
"""

from __future__ import annotations

from typing import Any, Final

_APART: Final = "distft_reads_apart"
_BOTH_WAYS: Final = "distft_reads_both_ways"


def mark_apart(tokenizer: Any) -> None:
    """Of a tokenizer whose model is an encoder-decoder: it reads a prompt in the encoder, and writes the answer in the
    decoder."""
    setattr(tokenizer, _APART, True)


def reads_apart(tokenizer: Any) -> bool:
    """Whether prompt and answer are tokens of their own, each with what the tokenizer puts around a text."""
    return bool(getattr(tokenizer, _APART, False))


def mark_both_ways(tokenizer: Any) -> None:
    """Of a tokenizer whose model is an encoder: it reads a text, or a pair of them, every token seeing all others."""
    setattr(tokenizer, _BOTH_WAYS, True)


def reads_both_ways(tokenizer: Any) -> bool:
    """Whether its model is an encoder: texts have the tokenizer's special tokens around them, at both ends."""
    return bool(getattr(tokenizer, _BOTH_WAYS, False))
