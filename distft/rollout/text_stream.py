"""The text of an answer while its tokens come, a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from distft.batches import Array
from distft.data.decode import response_text

_HALF_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Writes what each new token of the answer to one prompt adds to its text; all pieces together are the answer,
    without a space before its first word.

    A character whose bytes are divided between tokens is written when it is whole.
    """

    def __init__(
        self, tokenizer: Any, prompt_ids: Array, stop_tokens: Collection[int], write: Callable[[str], None]
    ) -> None:
        self._tokenizer, self._prompt_ids, self._stop_tokens = tokenizer, prompt_ids, stop_tokens
        self._write = write
        self._response: list[int] = []
        self._written = ""

    def __call__(self, tokens: Array) -> None:
        """The next token, ``[1]``."""
        self._response.append(int(tokens[0]))
        ended = self._response[-1] in self._stop_tokens
        text = response_text(self._tokenizer, self._prompt_ids, self._response, ended=ended)
        text = text.removeprefix(" ").rstrip(_HALF_A_CHARACTER)
        if text.startswith(self._written) and len(text) > len(self._written):
            self._write(text[len(self._written) :])
            self._written = text
