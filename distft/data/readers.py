"""Rows to examples: one reader a format.

A reader gives an example, or raises ``Unusable`` for a row that is well formed but cannot be trained on
(counted by its reason and left out), or BadRow with ``file:line`` for a row that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from distft.data.bad_rows import BadRow
from distft.data.columns import under_our_names
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
    prompt_of,
    require_columns,
)

_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
# What speakers are called, in small letters. A name that is none of these is the template's affair.
_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "model": "assistant", "bot": "assistant", "system": "system", "developer": "system", "tool": "tool",
    "observation": "tool",
}  # fmt: skip
_MESSAGES = 'a text is "..."; messages are [{"role": "user", "content": "..."}, ...]'
_SUMMARY_PROMPT = "Summarize the following conversation.\n\n{dialogue}\n\nSummary:"


EMPTY_ANSWER = "empty answer"  # one rule for all formats: what is imitated says something


class Unusable(Exception):
    """A row that nothing can be learned from; its text is the reason, the same for all rows of that sort."""


def example_of(row: Row, format_name: str) -> Example:
    """The example a row stands for."""
    named = under_our_names(row, format_name)
    require_columns(named, format_name)
    return _READERS[format_name](named)


def example_for(row: Row, format_name: str, kind: str) -> Example:
    """The example a row stands for, of use to a kind of algorithm: RL needs a prompt, SFT an answer with words. In a
    pair either side may be empty: to be silent, or not to be, is what it teaches.
    """
    example = example_of(row, format_name)
    if kind == "ppo" and not prompt_of(example):
        raise Unusable("no prompt")
    if kind == "sft" and isinstance(example, PreferenceExample) and _is_empty(example.chosen):
        raise Unusable(EMPTY_ANSWER)
    return example


def _text(row: Row) -> Example:
    text = row.values["text"]
    if not isinstance(text, str):
        raise _wrong_type(row, "text", "a text", text)
    if not text.strip():
        raise Unusable("empty text")
    return TextExample(text, where=row.where, extra=extra_columns(row))


def _messages(row: Row) -> Example:
    return _dialogue(row, _parse_messages(row, "messages", row.values["messages"]))


def _sharegpt(row: Row) -> Example:
    turns = row.values["conversations"]
    if not isinstance(turns, list | tuple):
        raise _wrong_type(row, "conversations", "a list of turns", turns)
    named = [_from_sharegpt(row, f"`conversations` turn {number}", turn) for number, turn in enumerate(turns, 1)]
    return _dialogue(row, _system(row) + _parse_messages(row, "conversations", named))


def _dialogue(row: Row, messages: Messages) -> Example:
    """A conversation to learn from. A turn of the assistant without a word would teach to say nothing."""
    said = [message.content for message in messages if message.role == "assistant" and message.trains]
    if not said:
        raise Unusable("no assistant turn")
    if not all(map(str.strip, said)):
        raise Unusable(EMPTY_ANSWER)
    return DialogueExample(messages, where=row.where, extra=extra_columns(row))


def _prompt_completion(row: Row) -> Example:
    prompt, completion = _content(row, "prompt"), _content(row, "completion")
    prompt, (completion,) = _same_sort(row, prompt, [completion])
    if _is_empty(completion):
        raise Unusable(EMPTY_ANSWER)
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
    if _is_empty(row.values["summary"]):
        raise Unusable(EMPTY_ANSWER)
    prompt = _SUMMARY_PROMPT.format(dialogue=row.values["dialogue"].strip())
    return CompletionExample(prompt, " " + row.values["summary"].strip(), where=row.where, extra=extra_columns(row))


def _alpaca(row: Row) -> Example:
    """An instruction, what it is about (``input``) and the answer (``output``): a turn of the user and one of the
    assistant."""
    asked = [_plain_text(row, name) for name in ("instruction", "input") if row.values.get(name)]
    answer = _plain_text(row, "output")
    if _is_empty(answer):
        raise Unusable(EMPTY_ANSWER)
    prompt = (*_system(row), Message("user", "\n\n".join(asked)))
    return CompletionExample(prompt, (Message("assistant", answer),), where=row.where, extra=extra_columns(row))


def _natural_instructions(row: Row) -> Example:
    """A task's definition, an instance of it and its (first) answer."""
    definition, targets = _joined(row.values["definition"]), row.values["targets"]
    answer = targets[0] if isinstance(targets, list | tuple) and targets else targets
    if not isinstance(answer, str):
        raise _wrong_type(row, "targets", "a text or a list of texts", targets)
    if _is_empty(answer):
        raise Unusable(EMPTY_ANSWER)
    prompt = f"{definition.strip()}\n\nInput: {_plain_text(row, 'inputs').strip()}\n\nOutput:"
    return CompletionExample(prompt, f" {answer.strip()}", where=row.where, extra=extra_columns(row))


_READERS: dict[str, Callable[[Row], Example]] = {
    "text": _text,
    "messages": _messages,
    "openai_chat": _messages,
    "sharegpt": _sharegpt,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
    "natural_instructions": _natural_instructions,
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
    """A turn as TRL and OpenAI write it: parts of text are joined, a turn of weight 0 is not learned."""
    if not isinstance(item, dict):
        raise misshapen(row, f"{name} is {_type_name(item)}, not an object with role and content", _MESSAGES)
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
            raise misshapen(row, f"{name}: `{key}` is {_type_name(value)}, not a text", _MESSAGES)
    return Message(_ROLES.get(role.lower()) or role, content, trains=item.get("weight") != 0)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _form_of(item: dict[str, Any]) -> str:
    if {"from", "value"} <= set(item):
        return (
            "from/value is ShareGPT's form: set `format: sharegpt`, `columns: {messages: conversations}` on the source"
        )
    return _MESSAGES


def _from_sharegpt(row: Row, name: str, turn: Any) -> Any:
    """A turn of ShareGPT, {"from", "value"}, as {"role", "content"}; one that is so already stays."""
    if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
        return turn
    if str(turn["from"]).lower() not in _ROLES:
        raise misshapen(row, f"{name} is from {turn['from']!r}, nobody known here", f"known: {', '.join(_ROLES)}")
    return {"role": turn["from"], "content": turn["value"], "weight": turn.get("weight")}


def _system(row: Row) -> Messages:
    system = row.values.get("system") or row.values.get("system_prompt")
    return (Message("system", system),) if isinstance(system, str) and system.strip() else ()


def _plain_text(row: Row, column: str) -> str:
    value = row.values[column]
    if not isinstance(value, str):
        raise _wrong_type(row, column, "a text", value)
    return value


def _joined(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _is_empty(answer: Content) -> bool:
    """Whether an answer says nothing, or one of its turns does."""
    if isinstance(answer, str):
        return not answer.strip()
    return not all(message.content.strip() for message in answer if message.role == "assistant")


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
