"""Examples to the token ids of an encoder: a prompt and its answer are the tokenizer's pair of texts.

``[CLS] prompt [SEP] answer [SEP]`` of BERT, ``<s> prompt </s></s> answer </s>`` of RoBERTa: whatever the tokenizer
writes. The prompt's ids end where the answer's first one begins, so that the two are told apart (``token_type_ids``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from distft.common.errors import UserError
from distft.config.data import Data
from distft.data.encode import Encoded, Encoder
from distft.data.formats import ClassifiedExample, Content, Example, Message, Messages
from distft.data.templates import render, render_cut, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PairEncoder(Encoder):
    """See ``Encoder``. Turns of a conversation are rendered by the chat template where the tokenizer has one; else
    their words follow each other, a line each: no encoder was trained with marks for who speaks."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, role: str = "policy") -> None:
        super().__init__(tokenizer, role)
        single, pair = (list(tokenizer(*texts)["input_ids"]) for texts in (("a",), ("a", "b")))
        first, second = (self._ids(text) for text in ("a", "b"))
        self._behind = len(single) - len(self._prefix) - len(first)  # special tokens behind the last text
        self._between = len(pair) - len(self._prefix) - len(first) - len(second) - self._behind

    @property
    def num_around(self) -> int:
        """See ``Encoder``: what is before a text and behind it."""
        return len(self._prefix) + self._behind

    def supervised(self, example: Example, loss_on: str | None) -> NoReturn:
        """Nothing that an encoder could do. Raises UserError."""
        del loss_on
        hint = "take a decoder: Llama, Qwen, Gemma, Mistral, GPT-2, ..."
        raise UserError("an encoder writes nothing: it cannot learn to answer", where=example.where, hint=hint)

    def prompt(self, example: Example) -> NoReturn:
        """As ``supervised``."""
        self.supervised(example, None)

    def classified(self, example: ClassifiedExample) -> Encoded:
        """A text alone, or the pair."""
        if example.text_pair is None:
            return self._texts("", example.text)
        return self._texts(example.text, example.text_pair)

    def answer(self, prompt: Content, answer: Content, where: str) -> Encoded:
        """Prompt and answer as a pair of texts; an answer to nothing is a text alone."""
        if isinstance(prompt, str):
            return self._texts(prompt, str(answer))
        turns = (Message("assistant", answer),) if isinstance(answer, str) else answer
        if self._tokenizer.chat_template is None:
            return self._texts(_words(prompt), _words(turns))
        return self._rendered(prompt, render(self._tokenizer, prompt + turns, where), turns, where)

    def cut_answer(self, prompt: Content, answer: str, where: str) -> Encoded:
        """As ``answer``; what ends an answer is the template's only."""
        if isinstance(prompt, str) or self._tokenizer.chat_template is None:
            return self.answer(prompt, answer, where)
        turns = (Message("assistant", answer),)
        return self._rendered(prompt, render_cut(self._tokenizer, prompt, answer, where), turns, where)

    def cut(self, sequence: Encoded, data: Data, *, sampled: bool) -> Encoded:
        """See ``Encoder``, and ``within``."""
        return self.within(sequence, data.max_prompt_length if sampled else data.max_length)

    def within(self, sequence: Encoded, limit: int) -> Encoded:
        """In at most ``limit`` ids, the special tokens among them: of the prompt its beginning is left out, down to
        one token, then of the answer its end."""
        over = len(sequence) - limit
        if over <= 0:
            return sequence
        prompt, answer, start = sequence.prompt_ids, sequence.response_ids, len(self._prefix)
        if prompt:
            less = max(0, min(over, len(prompt) - start - self._between - 1))
            prompt, over, start = prompt[:start] + prompt[start + less :], over - less, 0
        end = len(answer) - self._behind
        answer = answer[: max(start, end - over)] + answer[end:]
        return Encoded(prompt, answer, [1] * len(answer), sequence.moved)

    def _rendered(self, prompt: Messages, text: str, turns: Messages, where: str) -> Encoded:
        before = render_prompt(self._tokenizer, prompt, where)
        if not text.startswith(before):  # the template writes a prompt otherwise once it is answered
            return self._texts(before, _words(turns))
        return self._texts(before, text[len(before) :])

    def _texts(self, first: str, second: str) -> Encoded:
        if not first:
            ids = list(self._tokenizer(second)["input_ids"])
            return Encoded([], ids, [1] * len(ids))
        ids = list(self._tokenizer(first, second)["input_ids"])
        border = len(ids) - self._behind - len(self._ids(second))
        return Encoded(ids[:border], ids[border:], [1] * (len(ids) - border))


def _words(messages: Messages) -> str:
    return "\n".join(message.content for message in messages)
