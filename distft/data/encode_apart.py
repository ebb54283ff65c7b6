"""Examples to the token ids of an encoder-decoder: the prompt as the tokenizer encodes a text, with what it puts before
and behind (T5: ``</s>``; BART: ``<s>`` and ``</s>``), and the answer as a text of its own, ended by EOS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from distft.common.errors import UserError
from distft.config.data import Data
from distft.data.encode import Encoded, Encoder, Over, as_messages, last_learned
from distft.data.encode_pairs import PairEncoder
from distft.data.formats import CompletionExample, Content, DialogueExample, Example, Messages, TextExample, prompt_of
from distft.data.reading_marks import reads_apart, reads_both_ways
from distft.data.templates import render, render_cut, render_prompt, require_template, unfit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ONLY_ANSWERS = "an encoder-decoder learns the answer to a prompt and nothing else"


def encoder_for(tokenizer: PreTrainedTokenizerBase, role: str = "policy") -> Encoder:
    """What encodes examples for the model of that tokenizer, in one of the roles."""
    if reads_both_ways(tokenizer):
        return PairEncoder(tokenizer, role)
    return (ApartEncoder if reads_apart(tokenizer) else Encoder)(tokenizer, role)


class ApartEncoder(Encoder):
    """See ``Encoder``. Of a conversation the last turn of the assistant is the answer, all before it the prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, role: str = "policy") -> None:
        super().__init__(tokenizer, role)
        self._suffix = _trailing_specials(tokenizer, self._prefix)

    def supervised(self, example: Example, loss_on: str | None) -> Encoded:
        """See ``Encoder``. UserError for a text without a prompt, and for learning more than answers."""
        if isinstance(example, TextExample):
            hint = "give rows of prompt + completion, or take a decoder for plain texts"
            raise UserError(f"a plain text has no prompt: {_ONLY_ANSWERS}", where=example.where, hint=hint)
        if loss_on == "all":
            raise UserError(_ONLY_ANSWERS, where="algorithm.loss_on: all", hint="algorithm.loss_on=completion")
        if isinstance(example, CompletionExample) and not isinstance(example.prompt, str):
            whole = example.prompt + as_messages(example.completion)
            return self._dialogue(whole, "completion", example.where)
        return super().supervised(example, "completion" if isinstance(example, DialogueExample) else None)

    def prompt(self, example: Example) -> list[int]:
        """See ``Encoder``: what the encoder reads."""
        prompt = prompt_of(example)
        if not prompt or isinstance(prompt, str):
            return super().prompt(example)
        require_template(self._tokenizer, example.where, self._role)
        return self._plain(render_prompt(self._tokenizer, prompt, example.where))

    def answer(self, prompt: Content, answer: Content, where: str) -> Encoded:
        """See ``Encoder``. BadRow where others speak within the answer, or the template rewrites the prompt."""
        if isinstance(prompt, str):
            return self._apart(prompt, str(answer))
        messages = as_messages(answer)
        if any(message.role != "assistant" for message in messages):
            raise unfit("others speak within the answer", where, "give prompt + completion of one turn", messages)
        require_template(self._tokenizer, where, self._role)
        before = render_prompt(self._tokenizer, prompt, where)
        text = render(self._tokenizer, prompt + messages, where)
        if not text.startswith(before):
            what = "the chat template writes the prompt in other words once it is answered"
            raise unfit(what, where, "plain prompt and completion, or another models.policy.chat_template", messages)
        return self._ended(self._apart(before, text[len(before) :], ended=False), messages)

    def cut_answer(self, prompt: Content, answer: str, where: str) -> Encoded:
        """See ``Encoder``."""
        if isinstance(prompt, str):
            return self._apart(prompt, answer, ended=False)
        before = render_prompt(self._tokenizer, prompt, where)
        text = render_cut(self._tokenizer, prompt, answer, where)
        return self._apart(before, text.removeprefix(before), ended=False)

    def over(self, sequence: Encoded, data: Data, *, sampled: bool) -> Over | None:
        """See ``Encoder``: prompt and answer have limits of their own."""
        longest, room = (data.max_prompt_length, 0) if sampled else data.sides
        if len(sequence.prompt_ids) > longest:
            return Over(len(sequence.prompt_ids), longest, "data.max_prompt_length")
        if not sampled and len(sequence.response_ids) > room:
            return Over(len(sequence.response_ids), room, "what data.max_length leaves beside data.max_prompt_length")
        return None

    def room(self, prompt_ids: Sequence[int], positions: int) -> int:
        """See ``Encoder``: the decoder's positions are its own."""
        return positions if len(prompt_ids) <= positions else 0

    def cut(self, sequence: Encoded, data: Data, *, sampled: bool) -> Encoded:
        """See ``Encoder``: each to its own limit, a prompt with its end."""
        longest, room = (data.max_prompt_length, 0) if sampled else data.sides
        prompt = sequence.prompt_ids
        if len(prompt) > longest:
            end = self._suffix if prompt[len(prompt) - len(self._suffix) :] == self._suffix else []
            prompt = [*prompt[: max(0, longest - len(end))], *end][:longest]
        return replace(
            sequence, prompt_ids=prompt, response_ids=sequence.response_ids[:room], mask=sequence.mask[:room]
        )

    def _apart(self, prompt: str, answer: str, *, ended: bool = True) -> Encoded:
        ids = self._ids(answer)
        ids = ids if self._starts_special(ids) else self._prefix + ids
        ids = self._with_eos(ids) if ended else ids
        return Encoded(self._plain(prompt), ids, [1] * len(ids))

    def _plain(self, text: str) -> list[int]:
        ids = super()._plain(text)
        return ids if not self._suffix or ids[-len(self._suffix) :] == self._suffix else ids + self._suffix

    def _dialogue(self, messages: Messages, loss_on: str, where: str) -> Encoded:
        last = last_learned(messages)
        if loss_on != "completion" or not last:
            raise unfit("there is no turn of the assistant behind a prompt", where, "leave the row out", messages)
        return self.answer(messages[:last], messages[last : last + 1], where)


def _trailing_specials(tokenizer: PreTrainedTokenizerBase, prefix: list[int]) -> list[int]:
    """What the tokenizer puts behind a text."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    return full[len(prefix) + len(bare) :] if full[len(prefix) : len(prefix) + len(bare)] == bare else []
