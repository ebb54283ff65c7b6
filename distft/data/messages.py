"""Turns of conversations as rows write them: TRL's and OpenAI's messages, ShareGPT's turns, HH-RLHF's text."""

from __future__ import annotations

import re
from typing import Any, Final

from distft.data.bad_rows import BadRow, Unusable
from distft.data.formats import Message, Messages, Row, misshapen

FORM: Final = 'a text is "..."; messages are [{"role": "user", "content": "..."}, ...]'
_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
# What speakers are called, in small letters. A name that is none of these is the template's affair.
_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "model": "assistant", "bot": "assistant", "system": "system", "developer": "system", "tool": "tool",
    "observation": "tool",
}  # fmt: skip


def parse_messages(row: Row, column: str, value: Any) -> Messages:
    """The messages of a column. Raises BadRow; Unusable where there are none."""
    if not isinstance(value, list | tuple):
        raise wrong_type(row, column, "a list of messages", value)
    if not value:
        raise Unusable(f"`{column}` has no messages")
    return tuple(_parse_message(row, f"`{column}` message {number}", item) for number, item in enumerate(value, 1))


def _parse_message(row: Row, name: str, item: Any) -> Message:
    """A turn as TRL and OpenAI write it: parts of text are joined, a turn of weight 0 is not learned."""
    if not isinstance(item, dict):
        raise misshapen(row, f"{name} is {_type_name(item)}, not an object with role and content", FORM)
    for key in ("role", "content"):
        if key not in item:
            there = ", ".join(sorted(map(str, item))) or "(none)"
            raise misshapen(row, f"{name} has no `{key}`; its keys are {there}", _form_of(item))
    role, content = item["role"], item["content"]
    if item.get("tool_calls") or item.get("function_call"):
        raise misshapen(row, f"{name} has tool calls, which no format here keeps", "leave the row out")
    if isinstance(content, list) and content and all(_is_text_part(part) for part in content):
        content = "".join(part["text"] for part in content)
    for key, value in (("role", role), ("content", content)):
        if not isinstance(value, str):
            raise misshapen(row, f"{name}: `{key}` is {_type_name(value)}, not a text", FORM)
    return Message(_ROLES.get(role.lower()) or role, content, trains=item.get("weight") != 0)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _form_of(item: dict[str, Any]) -> str:
    if {"from", "value"} <= set(item):
        return (
            "from/value is ShareGPT's form: set `format: sharegpt`, `columns: {messages: conversations}` on the source"
        )
    return FORM


def from_sharegpt(row: Row, name: str, turn: Any) -> Any:
    """A turn of ShareGPT, {"from", "value"}, as {"role", "content"}; one that is so already stays."""
    if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
        return turn
    if str(turn["from"]).lower() not in _ROLES:
        raise misshapen(row, f"{name} is from {turn['from']!r}, nobody known here", f"known: {', '.join(_ROLES)}")
    return {"role": turn["from"], "content": turn["value"], "weight": turn.get("weight")}


def parse_hh(row: Row, column: str) -> Messages:
    """`\\n\\nHuman:` / `\\n\\nAssistant:` turns; neighbouring turns of one speaker become one."""
    text = row.values[column]
    if not isinstance(text, str):
        raise wrong_type(row, column, "a dialogue as text", text)
    pieces = _HH_TURN.split(text)
    if len(pieces) < 3 or pieces[0].strip():
        hint = "format hh_rlhf wants turns after blank lines; use `format: preference` for plain texts"
        raise misshapen(row, f"`{column}` does not begin with a `Human:` or `Assistant:` turn", hint)
    turns: list[Message] = []
    for speaker, said in zip(pieces[1::2], pieces[2::2], strict=True):
        role, content = _HH_ROLES[speaker], said.strip()
        if turns and turns[-1].role == role:
            content = "\n\n".join(part for part in (turns.pop().content, content) if part)
        turns.append(Message(role, content))
    return tuple(turns)


def wrong_type(row: Row, column: str, wanted: str, value: Any) -> BadRow:
    """The error for a column of another type than ``wanted``."""
    return misshapen(row, f"`{column}` must be {wanted}, not {_type_name(value)}", FORM)


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "a text" if isinstance(value, str) else names.get(type(value), type(value).__name__)
