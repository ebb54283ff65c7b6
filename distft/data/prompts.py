"""Prompts to be answered outside a run: typed, in a file, or the rows of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distft.common.errors import UserError
from distft.config.data import Data, Source
from distft.data.bad_rows import Unusable
from distft.data.files import missing_file
from distft.data.formats import Content, Message, PromptExample, prompt_key, prompt_of
from distft.data.readers import example_for
from distft.data.sources import format_of, read_rows
from distft.data.splits import ListName, held_out

_KIND = "ppo"  # what samples takes rows of every format that has a prompt


def read_prompts(
    path: str, *, split: str | None = None, limit: int | None = None, list_name: ListName = "test"
) -> Iterator[tuple[Content, str]]:
    """The prompts of a file, folder, data set of the hub or ``builtin:``, and where each stands. Of a ``.txt`` file
    every line that is not blank is one; else rows are read as in a run's ``list_name``, which is also the split unless
    one is said: of dialogues all before the last answer.

    Raises what reading a source can raise; UserError for a row without a prompt, or where there is none at all.
    """
    text = path.endswith(".txt")
    found = _lines(Path(path).expanduser()) if text else prompts_of(Source(path=path, split=split), list_name)
    number = 0
    for number, prompt in enumerate(found, 1):
        yield prompt
        if number == limit:
            return
    if not number:
        raise UserError("there is no prompt in it", where=path, hint="a .txt file has a prompt a line")


def prompts_of(source: Source, list_name: str) -> Iterator[tuple[Content, str]]:
    """The prompts of a source of the list of that name, and where each stands. Raises as ``read_prompts``."""
    format_name = ""
    for row in read_rows(source, list_name):
        format_name = format_name or format_of(source, row, _KIND)
        try:
            yield prompt_of(example_for(row, format_name, _KIND)), row.where
        except Unusable as why:
            raise UserError(f"cannot be answered: {why}", where=row.where, hint="leave the row out") from why


def training_prompts(data: Data) -> Iterator[tuple[Content, str]]:
    """The prompts of ``data.train``, and where each stands, without those that belong to the held-out rows: what
    ``holdout`` splits off, and what a row of ``data.eval`` or ``data.test`` asks. Raises as ``read_prompts``."""
    judging: list[ListName] = ["eval", "test"]
    asked = {
        _key(prompt) for name in judging for source in getattr(data, name) for prompt, _ in prompts_of(source, name)
    }
    split_off = [name for name in judging if not getattr(data, name)]
    for source in data.train:
        for prompt, where in prompts_of(source, "train"):
            key = _key(prompt)
            words = np.array([[int(key[:16], 16), int(key[16:], 16)]], np.uint64)
            if key not in asked and not held_out(words, data.holdout, split_off).any():
                yield prompt, where


def as_conversation(prompt: Content, system: str | None) -> Content:
    """A prompt as what a user says, after what the ``system`` says; a conversation that has a system turn keeps it."""
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if system is None or turns[0].role == "system":
        return turns
    return (Message("system", system), *turns)


def _key(prompt: Content) -> str:
    return prompt_key(PromptExample(prompt))


def _lines(path: Path) -> Iterator[tuple[Content, str]]:
    if not path.is_file():
        raise missing_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError("is not a text file in UTF-8", where=str(path), hint=f"byte {error.start}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield line, f"{path}:{number}"
