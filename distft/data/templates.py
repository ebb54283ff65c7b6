"""Chat templates: the default one, and turning conversations into text.

A tokenizer's own template wins. Text is rendered here and cut by characters in ``spans``; which *tokens* lie on which
side is decided in ``encode``, where a cut must be a token border too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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


def render_open(tokenizer: PreTrainedTokenizerBase, messages: Messages, where: str) -> str:
    """Messages, whoever spoke last, and the generation prompt."""
    return _render(tokenizer, messages, where, ask=True)


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, where: str) -> str:
    """A whole conversation, ended as the template ends it."""
    return _render(tokenizer, messages, where)


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, where: str, *, ask: bool = False, continued: bool = False
) -> str:
    require_template(tokenizer, where)
    try:
        text = tokenizer.apply_chat_template(
            plain(messages), tokenize=False, add_generation_prompt=ask, continue_final_message=continued
        )
    except Exception as error:  # Jinja's own errors, and whatever a template's expressions raise
        raise refused(error, messages, where) from error
    return str(text)


def refused(error: Exception, messages: Messages, where: str) -> BadRow:
    """The error for a conversation that the template does not write."""
    roles = ", ".join(message.role for message in messages)
    what = f"the chat template refuses the conversation ({roles}): {error}"
    return unfit(what, where, "order the turns as the template wants them", messages)


def unfit(what: str, where: str, hint: str, messages: Messages) -> BadRow:
    """The error for a conversation that the template makes unusable."""
    return BadRow(what, where=where, hint=hint, reason="refused by the chat template", content=plain(messages))


def plain(messages: Messages) -> list[dict[str, str]]:
    """Messages as a template takes them."""
    return [{"role": message.role, "content": message.content} for message in messages]
