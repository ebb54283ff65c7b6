"""Columns by other names: which are read as what, put together, and which are not read at all."""

from __future__ import annotations

from typing import Any, Final

from distft.config.data import ANCHORED, ANSWERED, CLASSIFIED, MOST_ANSWERS, RANKED
from distft.data.formats import COLUMNS, Row, aliases
from distft.data.labels import yes_or_no

_SYSTEM: Final = ("system", "system_prompt")
_SECOND: Final = ("input", "context")  # what an instruction is about
_PROMPTED: Final = ("preference", "corrections", "rankings", "prompt_completion", "unpaired", "prompt", "stepwise")
_TEXTS: Final = (*CLASSIFIED, *ANCHORED)  # no prompt
# Read where they are there, beside the columns that a format must have.
_OPTIONAL: Final[dict[str, tuple[str, ...]]] = {
    "preference": ("prompt",),
    "alpaca": ("input", *_SYSTEM),
    "sharegpt": _SYSTEM,
    "classification": ("text_pair",),
    "anchors": ("negatives", "negative", *(f"negative_{number}" for number in range(MOST_ANSWERS))),
}

# What there is of a task of Natural Instructions beside its definition, and the wish that puts it into the prompt.
OF_A_TASK: Final = {
    "things_to_avoid": "things_to_avoid: true", "positive_examples": "positive: 2", "negative_examples": "negative: 1",
}  # fmt: skip


def under_our_names(row: Row, format_name: str) -> Row:
    """The row with ``prompt`` and ``completion`` where other columns stand for them.

    An instruction is followed by its ``input``, after a blank line. A ``system`` text comes before the prompt: as a
    turn where there are turns, else as text, after which a blank line follows.
    """
    if format_name not in (*_PROMPTED, *_TEXTS):
        return row
    found = aliases(row, format_name)
    values: dict[str, Any] = {**row.values, **{ours: row.values[theirs] for ours, theirs in found.items()}}
    if format_name in _TEXTS:
        return Row(values, row.where)
    prompt = values.get("prompt")
    if second := _second(row, found):
        prompt = f"{prompt}\n\n{values[second]}"
    if (system := _named(row, _SYSTEM)) and prompt is not None:
        prompt = _instructed(values[system], prompt, values, format_name)
    if prompt is values.get("prompt") and not found:
        return row
    return Row({**values, "prompt": prompt}, row.where)


def column_notes(row: Row, format_name: str) -> tuple[str, ...]:
    """What a user should know about how the columns of such rows are read."""
    notes = []
    found = aliases(row, format_name) if format_name in (*_PROMPTED, *_TEXTS) else {}
    notes += [f"`{theirs}` is read as `{ours}`" for ours, theirs in found.items()]
    if second := _second(row, found):
        notes.append(f"`{second}` follows it")
    read = {*COLUMNS[format_name], *_OPTIONAL.get(format_name, ()), *found.values(), second}
    prompted = format_name in _PROMPTED and (row.values.get("prompt") is not None or "prompt" in found)
    if prompted and (system := _named(row, _SYSTEM)):
        notes.append(f"`{system}` comes before the prompt")
        read.add(system)
    if format_name in ANSWERED and yes_or_no(row.values.get("label")) is not None:
        notes.append("answers whose `label` is false are left out")
        read.add("label")
    text = [", ".join(notes)] if notes else []
    unread = [name for name, value in row.values.items() if name not in read and _says_something(value)]
    if format_name == "natural_instructions" and (of_task := [name for name in unread if name in OF_A_TASK]):
        unread = [name for name in unread if name not in of_task]
        listed = ", ".join(f"`{name}`" for name in of_task)
        wish = f"`instructions: {{{OF_A_TASK[of_task[0]]}}}` on the source, with format: natural_instructions,"
        text.append(f"not in the prompt: {listed} ({wish} puts them there)")
    if unread:
        listed = ", ".join(f"`{name}`" for name in unread)
        text.append(f"not read: {listed} (`columns: {{{unread[0]}: NAME}}` on the source reads it as NAME)")
    return tuple(text)


def _second(row: Row, found: dict[str, str]) -> str:
    return _named(row, _SECOND) if found.get("prompt") == "instruction" else ""


def _named(row: Row, names: tuple[str, ...]) -> str:
    """The first of the names that is a column with a text; "" where none is."""
    return next((name for name in names if isinstance(row.values.get(name), str) and row.values[name].strip()), "")


def _instructed(system: str, prompt: Any, values: dict[str, Any], format_name: str) -> Any:
    answers = [values.get(name) for name in COLUMNS[format_name] if name not in ("prompt", "label", "ranks")]
    if format_name in RANKED and isinstance(answers[0], list):
        answers = answers[0]
    if all(isinstance(part, str) for part in (prompt, *answers)):
        return f"{system}\n\n{prompt}"
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if isinstance(turns, list) and not (turns and isinstance(turns[0], dict) and turns[0].get("role") == "system"):
        return [{"role": "system", "content": system}, *turns]
    return prompt


def _says_something(value: Any) -> bool:
    """Texts and what holds them; and a yes or no, which may say that an answer is a bad one."""
    return isinstance(value, bool) or (isinstance(value, str | list | dict) and bool(value))
