"""Rows to examples: one reader a format.

A reader gives an example, or raises ``Unusable`` for a row that is well formed but cannot be trained on
(counted by its reason and left out), or BadRow with ``file:line`` for a row that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from distft.data.bad_rows import BadRow
from distft.data.formats import (
    CompletionExample,
    Content,
    DialogueExample,
    Example,
    Message,
    Messages,
    PreferenceExample,
    PromptExample,
    Row,
    TextExample,
    extra_columns,
    misshapen,
    require_columns,
)

_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_MESSAGES = 'a text is "..."; messages are [{"role": "user", "content": "..."}, ...]'
_SUMMARY_PROMPT = "Summarize the following conversation.\n\n{dialogue}\n\nSummary:"


class Unusable(Exception):
    """A row that nothing can be learned from; its text is the reason, the same for all rows of that sort."""


def example_of(row: Row, format_name: str) -> Example:
    """The example a row stands for."""
    require_columns(row, format_name)
    return _READERS[format_name](row)


def _text(row: Row) -> Example:
    text = row.values["text"]
    if not isinstance(text, str):
        raise _wrong_type(row, "text", "a text", text)
    if not text:
        raise Unusable("empty text")
    return TextExample(text, where=row.where, extra=extra_columns(row))


def _messages(row: Row) -> Example:
    messages = _parse_messages(row, "messages", row.values["messages"])
    if not any(message.role == "assistant" for message in messages):
        raise Unusable("no assistant turn")
    return DialogueExample(messages, where=row.where, extra=extra_columns(row))


def _prompt_completion(row: Row) -> Example:
    prompt, completion = _content(row, "prompt"), _content(row, "completion")
    prompt, (completion,) = _same_sort(row, prompt, [completion])
    if not completion:
        raise Unusable("empty completion")
    return CompletionExample(prompt, completion, where=row.where, extra=extra_columns(row))


def _prompt(row: Row) -> Example:
    prompt = _content(row, "prompt")
    if not prompt:
        raise Unusable("empty prompt")
    return PromptExample(prompt, where=row.where, extra=extra_columns(row))


def _preference(row: Row) -> Example:
    sides = [_content(row, "chosen"), _content(row, "rejected")]
    if isinstance(sides[0], str) != isinstance(sides[1], str):
        raise misshapen(row, "`chosen` and `rejected` must both be texts or both be messages", _MESSAGES)
    if row.values.get("prompt") is None:
        return _pair(row, *_implicit_prompt(*sides))
    prompt = _content(row, "prompt")
    if not isinstance(sides[0], str) and _repeats_prompt(prompt, sides):
        return _pair(row, *_implicit_prompt(*sides))
    prompt, sides = _same_sort(row, prompt, sides)
    return _pair(row, prompt, sides[0], sides[1])


def _hh_rlhf(row: Row) -> Example:
    """Whole dialogues: the prompt is what both have in common up to the assistant's turn in which they part."""
    chosen, rejected = (_parse_hh(row, column) for column in ("chosen", "rejected"))
    return _pair(row, *_implicit_prompt(chosen, rejected))


def _dialogsum(row: Row) -> Example:
    for column in ("dialogue", "summary"):
        if not isinstance(row.values[column], str):
            raise _wrong_type(row, column, "a text", row.values[column])
    if not row.values["summary"].strip():
        raise Unusable("empty summary")
    prompt = _SUMMARY_PROMPT.format(dialogue=row.values["dialogue"].strip())
    return CompletionExample(prompt, " " + row.values["summary"].strip(), where=row.where, extra=extra_columns(row))


_READERS: dict[str, Callable[[Row], Example]] = {
    "text": _text,
    "messages": _messages,
    "prompt_completion": _prompt_completion,
    "preference": _preference,
    "prompt": _prompt,
    "hh_rlhf": _hh_rlhf,
    "dialogsum": _dialogsum,
}


def _pair(row: Row, prompt: Content, chosen: Content, rejected: Content) -> Example:
    if chosen == rejected:
        raise Unusable("chosen and rejected are the same")
    if not isinstance(chosen, str) and not prompt:
        raise Unusable("the two dialogues have no common beginning")
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(side, str) and not any(message.role == "assistant" for message in side):
            raise Unusable(f"no assistant turn in {name}")
    return PreferenceExample(prompt, chosen, rejected, where=row.where, extra=extra_columns(row))


def _implicit_prompt(chosen: Content, rejected: Content) -> tuple[Content, Content, Content]:
    """The common beginning of two sequences, cut where an answer may begin: (prompt, chosen, rejected).

    Messages: whole turns, up to a turn that is not the assistant's. Texts: up to the white space before the
    first word that differs, which stays with the answers (tokenizers join it to the word that follows).
    """
    if isinstance(chosen, str) or isinstance(rejected, str):
        chosen, rejected = str(chosen), str(rejected)
        cut = _common(chosen, rejected)
        # A cut at the end of one side would leave that side empty, or split the word that goes on in the other.
        while cut > 0 and not (chosen[cut : cut + 1].isspace() and rejected[cut : cut + 1].isspace()):
            cut -= 1
        while cut > 0 and chosen[cut - 1].isspace():
            cut -= 1
        return chosen[:cut], chosen[cut:], rejected[cut:]
    cut = _common(chosen, rejected)
    while cut > 0 and (cut >= min(len(chosen), len(rejected)) or chosen[cut - 1].role == "assistant"):
        cut -= 1
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The number of leading items that two sequences share."""
    for place, (item, other) in enumerate(zip(a, b, strict=False)):
        if item != other:
            return place
    return min(len(a), len(b))


def _repeats_prompt(prompt: Content, sides: list[Content]) -> bool:
    """Whether both sides are whole conversations that hold the prompt already (as UltraFeedback's rows do)."""
    for side in sides:
        if isinstance(side, str):
            return False
        if isinstance(prompt, str):
            if not any(message.role == "user" and message.content.strip() == prompt.strip() for message in side[:2]):
                return False
        elif side[: len(prompt)] != prompt:
            return False
    return bool(prompt)


def _same_sort(row: Row, prompt: Content, answers: list[Content]) -> tuple[Content, list[Content]]:
    """A text beside messages becomes a message: a prompt the user's, an answer the assistant's."""
    if all(isinstance(part, str) for part in (prompt, *answers)):
        return prompt, answers
    if isinstance(prompt, str):
        prompt = (Message("user", prompt),)
    if not prompt:
        raise misshapen(row, "`prompt` is an empty list of messages", _MESSAGES)
    return prompt, [(Message("assistant", part),) if isinstance(part, str) else part for part in answers]


def _content(row: Row, column: str) -> Content:
    value = row.values[column]
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return _parse_messages(row, column, value)
    raise _wrong_type(row, column, "a text or a list of messages", value)


def _parse_messages(row: Row, column: str, value: Any) -> Messages:
    if not isinstance(value, list | tuple):
        raise _wrong_type(row, column, "a list of messages", value)
    if not value:
        raise Unusable(f"`{column}` has no messages")
    return tuple(_parse_message(row, f"`{column}` message {number}", item) for number, item in enumerate(value, 1))


def _parse_message(row: Row, name: str, item: Any) -> Message:
    if not isinstance(item, dict):
        what = f"{name} is {_type_name(item)}, not an object with role and content"
        raise misshapen(row, what, _MESSAGES)
    for key in ("role", "content"):
        if key not in item:
            there = ", ".join(sorted(map(str, item))) or "(none)"
            hint = (
                "from/value is ShareGPT's form: rename to role/content" if {"from", "value"} <= set(item) else _MESSAGES
            )
            raise misshapen(row, f"{name} has no `{key}`; its keys are {there}", hint)
        if not isinstance(item[key], str):
            raise misshapen(row, f"{name}: `{key}` is {_type_name(item[key])}, not a text", _MESSAGES)
    if item.get("tool_calls"):
        raise misshapen(row, f"{name} has tool calls, which no format here keeps", "leave the row out")
    return Message(item["role"], item["content"])


def _parse_hh(row: Row, column: str) -> Messages:
    """`\\n\\nHuman:` / `\\n\\nAssistant:` turns; neighbouring turns of one speaker become one."""
    text = row.values[column]
    if not isinstance(text, str):
        raise _wrong_type(row, column, "a dialogue as text", text)
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


def _wrong_type(row: Row, column: str, wanted: str, value: Any) -> BadRow:
    return misshapen(row, f"`{column}` must be {wanted}, not {_type_name(value)}", _MESSAGES)


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "a text" if isinstance(value, str) else names.get(type(value), type(value).__name__)
