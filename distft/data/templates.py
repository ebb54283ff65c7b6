"""Chat templates: the default one, and turning conversations into text with the places where turns begin and end.

A tokenizer's own template wins. Text is rendered here and cut by characters at the borders the template
names; which *tokens* lie on which side is decided in ``encode``, where a cut must be a token border too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distft.common.errors import UserError
from distft.data.bad_rows import BadRow
from distft.data.formats import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A turn is `<|role|>content<eos>`: generation stops where a turn ends, and nothing follows the last EOS.
DEFAULT_TEMPLATE = (
    "{%- if bos_token is defined and bos_token %}{{- bos_token }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{- raise_exception('unknown role ' ~ message['role'] ~ ': use system, user, assistant or tool') }}"
    "{%- endif %}"
    "{{- '<|' ~ message['role'] ~ '|>' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] ~ eos_token }}{% endgeneration %}"
    "{%- else %}{{- message['content'] ~ eos_token }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)

_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")


@dataclass(frozen=True)
class Rendered:
    """A conversation as text; ``spans`` are the [start, end) of what the assistant wrote, in characters."""

    text: str
    spans: tuple[tuple[int, int], ...]


def resolve_template(value: str) -> str:
    """``default``, the path of a Jinja file, or the template itself -> the template.

    UserError where it is none of them.
    """
    if value == "default":
        return DEFAULT_TEMPLATE
    if "{%" in value or "{{" in value:
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        raise UserError(f"no chat template {value!r}", hint="say `default`, a Jinja file or the template's text")
    return path.read_text(encoding="utf-8")


def require_template(tokenizer: PreTrainedTokenizerBase, where: str) -> str:
    """The tokenizer's chat template; UserError saying what to set where it has none."""
    if tokenizer.chat_template is None:
        name = tokenizer.name_or_path or "of this model"
        raise UserError(
            f"the row is a conversation but the tokenizer {name} has no chat template",
            where=where,
            hint="train an instruct model, put a `chat_template.jinja` into the model's folder, build the tokenizer "
            "with `init.tokenizer.chat_template: default`, or give plain rows (text, prompt + completion)",
        )
    template = tokenizer.get_chat_template()
    return str(template)


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Messages, where: str) -> str:
    """A prompt up to where the assistant goes on: with the generation prompt, or a last assistant turn left open."""
    continued = prompt[-1].role == "assistant"
    return _render(tokenizer, prompt, where, ask=not continued, continued=continued)


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, where: str) -> str:
    """A whole conversation, ended as the template ends it."""
    return _render(tokenizer, messages, where)


def render_with_spans(tokenizer: PreTrainedTokenizerBase, messages: Messages, where: str) -> Rendered:
    """A whole conversation and where in it the assistant speaks.

    The template's ``{% generation %}`` marks decide. Without them a turn's span is what is added to the
    conversation before it (with the generation prompt) by that turn; UserError where the template rewrites earlier
    turns as a conversation grows, since then no such difference exists.
    """
    template = require_template(tokenizer, where)
    if _GENERATION.search(template):
        return _render_marked(tokenizer, template, messages, where)
    text = _render(tokenizer, messages, where)
    spans = []
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = _render(tokenizer, messages[:index], where, ask=True) if index else ""
        after = _render(tokenizer, messages[: index + 1], where)
        if not (text.startswith(after) and after.startswith(before)):
            raise _bad(
                f"the chat template writes turn {index + 1} differently once the conversation goes on, so the "
                "assistant's tokens cannot be told apart",
                where,
                "algorithm.loss_on=completion trains on the last turn alone; a template with {% generation %} marks "
                "on all",
                messages,
            )
        spans.append((len(before), len(after)))
    return Rendered(text, tuple(spans))


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, where: str, *, ask: bool = False, continued: bool = False
) -> str:
    require_template(tokenizer, where)
    try:
        text = tokenizer.apply_chat_template(
            _plain(messages), tokenize=False, add_generation_prompt=ask, continue_final_message=continued
        )
    except Exception as error:  # Jinja's own errors, and whatever a template's expressions raise
        raise _refused(error, messages, where) from error
    return str(text)


def _render_marked(tokenizer: PreTrainedTokenizerBase, template: str, messages: Messages, where: str) -> Rendered:
    from transformers.utils.chat_template_utils import render_jinja_template

    named: dict[str, Any] = tokenizer.special_tokens_map
    # its annotation says str; it returns the texts and, for each, the [start, end) of what is marked
    render_marked: Callable[..., Any] = render_jinja_template
    try:
        texts, spans = render_marked(
            [_plain(messages)], chat_template=template, return_assistant_tokens_mask=True, **named
        )
    except Exception as error:
        raise _refused(error, messages, where) from error
    return Rendered(str(texts[0]), tuple((int(start), int(end)) for start, end in spans[0] if end > start))


def _refused(error: Exception, messages: Messages, where: str) -> BadRow:
    roles = ", ".join(message.role for message in messages)
    what = f"the chat template refuses the conversation ({roles}): {error}"
    return _bad(what, where, "order the turns as the template wants them", messages)


def _bad(what: str, where: str, hint: str, messages: Messages) -> BadRow:
    return BadRow(what, where=where, hint=hint, reason="refused by the chat template", content=_plain(messages))


def _plain(messages: Messages) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
