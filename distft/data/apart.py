"""Tokenizers of encoder-decoders: their models read a prompt in the encoder, and write the answer in the decoder.

A tokenizer does not know what its model is, and everything that makes tokens of rows is given the tokenizer. So what
loads one says it, and it stays with the tokenizer; it is part of what tells two of them apart.
"""

from __future__ import annotations

from typing import Any, Final

_MARK: Final = "distft_reads_apart"


def mark_apart(tokenizer: Any) -> None:
    """Of a tokenizer whose model is an encoder-decoder."""
    setattr(tokenizer, _MARK, True)


def reads_apart(tokenizer: Any) -> bool:
    """Whether prompt and answer are tokens of their own, each with what the tokenizer puts around a text."""
    return bool(getattr(tokenizer, _MARK, False))
