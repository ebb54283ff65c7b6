"""Where in a rendered conversation the assistant speaks.

A template's ``{% generation %}`` marks decide. Without them a turn is what is added to the conversation before it (with
the generation prompt) by that turn. Many templates write a turn differently once the conversation goes on: they drop
what was thought, or an end of the text. There the turn is found by putting another text in its place and looking what
stays; it can be trained where its words stand in the whole conversation unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from distft.data.bad_rows import BadRow
from distft.data.formats import Messages
from distft.data.templates import plain, refused, render, render_open, require_template, unfit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")
_STAND_IN = "\ue0f7answer\ue0f8"  # private use: in no text


@dataclass(frozen=True)
class Rendered:
    """A conversation as text; ``spans`` are the [start, end) of what the assistant wrote, in characters.

    ``moved``: some turn does not begin where its generation would.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    moved: bool = False


def has_marks(tokenizer: PreTrainedTokenizerBase, where: str) -> bool:
    """Whether the template itself says what the assistant wrote. Raises UserError where there is no template."""
    return _GENERATION.search(require_template(tokenizer, where)) is not None


def render_with_spans(tokenizer: PreTrainedTokenizerBase, messages: Messages, where: str) -> Rendered:
    """A whole conversation and where in it the assistant speaks, but for turns that are not to be trained on.

    BadRow where the template refuses it, or writes a turn in other words once the conversation goes on.
    """
    if has_marks(tokenizer, where):
        return _render_marked(tokenizer, messages, where)
    text = render(tokenizer, messages, where)
    spans, moved = [], False
    for index, message in enumerate(messages):
        if message.role == "assistant" and message.trains:
            start, end, turn_moved = _turn(tokenizer, messages, index, text, where)
            spans.append((start, end))
            moved = moved or turn_moved
    return Rendered(text, tuple(spans), moved)


def _turn(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, index: int, text: str, where: str
) -> tuple[int, int, bool]:
    """(start, end, moved) of one turn of the assistant."""
    before = render_open(tokenizer, messages[:index], where) if index else ""
    after = render(tokenizer, messages[: index + 1], where)
    if text.startswith(after) and after.startswith(before):
        return len(before), len(after), False
    place = _located(tokenizer, messages, index, text, where)
    if place is None:
        raise unfit(
            f"the chat template writes turn {index + 1} in other words once the conversation goes on, so that its "
            "tokens cannot be trained on",
            where,
            "algorithm.loss_on=completion trains on the last turn alone; a template with {% generation %} marks on all",
            messages,
        )
    start, end = place
    alone = _located(tokenizer, messages[: index + 1], index, after, where)
    if alone is not None:
        end += len(_ending(tokenizer, after[alone[1] :], text[end:]))
    if text.startswith(before) and len(before) <= start:
        return len(before), end, False
    return start, end, True


def _located(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, index: int, text: str, where: str
) -> tuple[int, int] | None:
    """The [start, end) of a turn's words in the rendered ``text`` of the messages; None where they are not as given."""
    others = (*messages[:index], replace(messages[index], content=_STAND_IN), *messages[index + 1 :])
    try:
        head, *tails = render(tokenizer, others, where).split(_STAND_IN)
    except BadRow:
        return None
    if len(tails) != 1 or not (text.startswith(head) and text.endswith(tails[0])):
        return None
    start, end = len(head), len(text) - len(tails[0])
    return (start, end) if text[start:end].strip() == messages[index].content.strip() else None


def _ending(tokenizer: PreTrainedTokenizerBase, alone: str, within: str) -> str:
    """What ends a turn both when it is the last and in the whole conversation, up to a special token."""
    if within.startswith(alone):
        return alone
    length = next((at for at, (one, other) in enumerate(zip(alone, within, strict=False)) if one != other), len(within))
    common = within[:length]
    marks = {str(token) for token in tokenizer.added_tokens_decoder.values() if str(token).strip()}
    ends = [common.rfind(mark) + len(mark) for mark in {*marks, *tokenizer.all_special_tokens} if mark in common]
    return common[: max(ends, default=0)]


def _render_marked(tokenizer: PreTrainedTokenizerBase, messages: Messages, where: str) -> Rendered:
    from transformers.utils.chat_template_utils import render_jinja_template

    named: dict[str, Any] = tokenizer.special_tokens_map
    # its annotation says str; it returns the texts and, for each, the [start, end) of what is marked
    render_marked: Callable[..., Any] = render_jinja_template
    template = require_template(tokenizer, where)
    try:
        texts, found = render_marked(
            [plain(messages)], chat_template=template, return_assistant_tokens_mask=True, **named
        )
    except Exception as error:
        raise refused(error, messages, where) from error
    spans = [(int(start), int(end)) for start, end in found[0] if end > start]
    trained = [message.trains for message in messages if message.role == "assistant"]
    if not all(trained):
        if len(spans) != len(trained):
            hint = "leave out the weights of the messages"
            raise unfit("the template's marks do not tell which turn is which", where, hint, messages)
        spans = [span for span, trains in zip(spans, trained, strict=True) if trains]
    return Rendered(str(texts[0]), tuple(spans))
