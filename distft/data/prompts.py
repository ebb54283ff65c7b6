"""Prompts to be answered outside a run: typed, in a file, or the rows of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distft.common.errors import UserError
from distft.config.data import Source
from distft.data.bad_rows import Unusable
from distft.data.files import missing_file
from distft.data.formats import Content, Message, prompt_of
from distft.data.readers import example_for
from distft.data.sources import format_of, read_rows

_KIND = "ppo"  # what samples takes rows of every format that has a prompt


def read_prompts(path: str, *, split: str | None = None, limit: int | None = None) -> Iterator[tuple[Content, str]]:
    """The prompts of a file, folder, data set of the hub or ``builtin:``, and where each stands. Of a ``.txt`` file
    every line that is not blank is one; else rows are read as in a run: of dialogues all before the last answer.

    Raises what reading a source can raise; UserError for a row without a prompt, or where there is none at all.
    """
    text = path.endswith(".txt")
    found = _lines(Path(path).expanduser()) if text else prompts_of(Source(path=path, split=split), "test")
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


def as_conversation(prompt: Content, system: str | None) -> Content:
    """A prompt as what a user says, after what the ``system`` says; a conversation that has a system turn keeps it."""
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if system is None or turns[0].role == "system":
        return turns
    return (Message("system", system), *turns)


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
