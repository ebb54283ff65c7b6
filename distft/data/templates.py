"""Conversations to text by the tokenizer's chat template.

Text is rendered here and cut by characters in ``spans``; which *tokens* lie on which
side is decided in ``encode``, where a cut must be a token border too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distft.common.errors import UserError
from distft.data.bad_rows import BadRow
from distft.data.formats import Content, Message, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "\ue123\ue124"  # two characters for private use: no template touches them, and no model writes them


def require_template(tokenizer: PreTrainedTokenizerBase, where: str, role: str = "policy") -> str:
    """The tokenizer's chat template; UserError saying what to set for the role's model where it has none."""
    if tokenizer.chat_template is None:
        name = tokenizer.name_or_path or "of this model"
        raise UserError(
            f"the row is a conversation but the tokenizer {name} has no chat template",
            where=where,
            hint=f"models.{role}.chat_template=chatml gives it one (or llama3, default, a Jinja file); or train an "
            "instruct model, or give plain rows (text, prompt + completion)",
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


def render_cut(tokenizer: PreTrainedTokenizerBase, prompt: Messages, answer: str, where: str) -> str:
    """A prompt and an answer that was cut: without what the template writes behind an answer.

    An answer that the template does not write out, or refuses, follows the prompt as it is.
    """
    try:
        text = _render(tokenizer, (*prompt, Message("assistant", answer + MARK)), where)
    except BadRow:
        text = ""
    written, mark, _ = text.rpartition(MARK)
    return written if mark else render_prompt(tokenizer, prompt, where) + answer


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
    last = messages[-1]
    # Thoughts may be written in another form, the words not: templates for images read lists of parts, and no text.
    if last.role in ("user", "assistant") and last.content.rpartition("</think>")[2].strip() not in text:
        what = f"the chat template leaves out what the {last.role} says"
        raise unfit(what, where, "is it one for images or speech? models.policy.chat_template takes another", messages)
    return str(text)


def refused(error: Exception, messages: Messages, where: str) -> UserError:
    """The error for a conversation that the template does not write; for all of them where it is no template."""
    from jinja2 import TemplateSyntaxError

    if isinstance(error, TemplateSyntaxError):
        return UserError(
            f"the chat template cannot be read, in its line {error.lineno}: {error.message}", where=where,
            hint="mend the model's chat_template, or give another: models.policy.chat_template=chatml, or a Jinja file",
        )  # fmt: skip
    roles = ", ".join(message.role for message in messages)
    what = f"the chat template refuses the conversation ({roles}): {error}"
    hint = "change the turns as it says, or models.policy.chat_template takes another template"
    return unfit(what, where, hint, messages)


def unfit(what: str, where: str, hint: str, messages: Messages) -> BadRow:
    """The error for a conversation that the template makes unusable."""
    return BadRow(what, where=where, hint=hint, reason="refused by the chat template", content=plain(messages))


def plain(messages: Messages) -> list[dict[str, str]]:
    """Messages as a template takes them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def plain_content(content: Content) -> str | list[dict[str, str]]:
    """A prompt or an answer as others than we take it."""
    return content if isinstance(content, str) else plain(content)
