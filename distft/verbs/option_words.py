"""Errors of what runs and these verbs have in common name a recipe's keys; who typed options is told options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from distft.common.errors import UserError

_SAID: Final = (
    (
        r"data\.holdout=0 evaluation\.every=0 does without held-out rows",
        "--data PATH judges by other rows, --split train by those that it was trained on",
    ),
    (r"models\.policy\.chat_template=(\w+)", r"--chat-template \1"),
    (r"models\.policy\.chat_template", "--chat-template"),
    (r"models\.policy\.stop_tokens", "--stop"),
    (r"models\.\w+\.trust_remote_code=true|trust_remote_code: true beside the path", "--trust-remote-code"),
    (r"what data\.max_length leaves beside data\.max_prompt_length", "--max-length"),
    (r"data\.max_(prompt_)?length", "--max-length"),
    (r"`split: (\w+)`(; a source each for more than one)?", r"`--split \1`"),
)
# What only a recipe can be told.
_KEYS: Final = (
    (r", or set `data\.overlong` to [a-z ]+", ", or leave the row out"),
    (r"`columns: \{[^}]*\}` on the source renames", "rename them in the file"),
    (r"data\.on_bad_row=drop leaves such rows out", "mend the row, or leave it out"),
)


@contextmanager
def in_options(*, recipe: bool = False) -> Iterator[None]:
    """UserErrors from within name options. ``recipe``: one is named too, so keys of it may be given."""
    try:
        yield
    except UserError as error:
        for pattern, option in (*_SAID, *(() if recipe else _KEYS)):
            error.what, error.where, error.hint = (
                re.sub(pattern, option, text) for text in (error.what, error.where, error.hint)
            )
        raise
