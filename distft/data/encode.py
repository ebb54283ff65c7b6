"""Examples to token ids, with the border between prompt and answer on a token border.

The ids of a prompt are exactly those that generation would see. Where the ids of prompt + answer begin
with them, the answer is what follows. Where they do not (a token would merge over the border), the two are
tokenised apart and joined. Where a chat template writes the prompt differently once it is answered, the answer
begins where the two part, and the row is counted as ``moved``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from distft.common.errors import UserError
from distft.config.data import Data
from distft.data.formats import (
    AnchoredExample,
    ClassifiedExample,
    CompletionExample,
    Content,
    DialogueExample,
    Example,
    Message,
    Messages,
    PreferenceExample,
    RankingExample,
    StepwiseExample,
    TextExample,
    prompt_of,
)
from distft.data.spans import Rendered, has_marks, render_with_spans
from distft.data.templates import render, render_cut, render_prompt, require_template
from distft.data.text_ids import text_ids
from distft.data.turn_end import turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """One sequence. ``mask`` has a 0 or 1 for each response id; ``moved``: see the module's docstring."""

    prompt_ids: list[int]
    response_ids: list[int]
    mask: list[int]
    moved: bool = False

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)

    def truncated(self, max_length: int) -> Encoded:
        """The first ``max_length`` ids; nothing is appended."""
        room = max(0, max_length - len(self.prompt_ids))
        return replace(
            self,
            prompt_ids=self.prompt_ids[:max_length],
            response_ids=self.response_ids[:room],
            mask=self.mask[:room],
        )

    def blocks(self, max_length: int) -> list[Encoded]:
        """Of a text without a prompt all of it, in sequences of at most ``max_length`` (2 or more) ids. Each begins
        with the last id of the one before, as its prompt, so that every id but the text's first is trained on once."""
        ids, new = self.response_ids, max_length - 1
        rest = [ids[start : start + max_length] for start in range(new, len(ids) - 1, new)]
        first = replace(self, response_ids=ids[:max_length], mask=self.mask[:max_length])
        return [first, *(Encoded(block[:1], block[1:], [1] * (len(block) - 1)) for block in rest)]

    def followed(self, token: int) -> Encoded:
        """With one more token to train on."""
        return replace(self, response_ids=[*self.response_ids, token], mask=[*self.mask, 1])

    def bordered(self, border: int) -> Encoded:
        """The same ids with the answer beginning at ``border``, at or before where it begins now."""
        ids = self.prompt_ids[border:]
        if not ids:
            return self
        return Encoded(self.prompt_ids[:border], ids + self.response_ids, [1] * len(ids) + self.mask, self.moved)

    @property
    def trains(self) -> bool:
        """Whether anything is left to train on."""
        return any(self.mask)


@dataclass(frozen=True)
class Over:
    """A sequence, or its part, of ``length`` tokens where the ``key`` allows ``limit``."""

    length: int
    limit: int
    key: str


class Encoder:
    """Encodes examples with the tokenizer of one role's model."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, role: str = "policy") -> None:
        self._tokenizer, self._role = tokenizer, role
        self._eos: int | None = tokenizer.eos_token_id
        end = turn_end(tokenizer)
        # What ends a conversation where the template does not: else nothing would teach a model to stop.
        self._missing_end = end.stop if end is not None and end.appended else None
        self._prefix = _leading_specials(tokenizer)
        self._text_ids = text_ids(tokenizer)
        self._head = lru_cache(maxsize=2)(self._ids)  # both answers of a pair have the same prompt

    def supervised(self, example: Example, loss_on: str | None) -> Encoded:
        """An example to imitate (of a preference: the chosen answer).

        ``loss_on``: ``completion`` (what follows the prompt; of a dialogue the assistant's last turn), ``assistant``
        (all the assistant's turns), ``all`` (every token but the first); None: all of a text, the assistant's turns of
        a dialogue, else the completion. A text beside ``completion`` or ``assistant`` is a UserError.
        """
        if isinstance(example, PreferenceExample):
            example = CompletionExample(example.prompt, example.chosen, where=example.where)
        if isinstance(example, TextExample):
            if loss_on not in (None, "all"):
                raise UserError(
                    f"a plain text has no {loss_on} to train on alone", where=example.where,
                    hint="set `algorithm.loss_on: all`, or give prompt + completion or messages",
                )  # fmt: skip
            return self._whole(self._with_eos(self._plain(example.text)))
        if isinstance(example, DialogueExample):
            return self._dialogue(example.messages, loss_on or "assistant", example.where)
        if not isinstance(example, CompletionExample):
            raise UserError("a prompt alone has nothing to imitate", where=example.where, hint="give it a completion")
        if not isinstance(example.prompt, str) and loss_on == "assistant":
            return self._dialogue(example.prompt + as_messages(example.completion), "assistant", example.where)
        encoded = self.answer(example.prompt, example.completion, example.where)
        return self._whole(encoded.prompt_ids + encoded.response_ids) if loss_on == "all" else encoded

    @property
    def num_around(self) -> int:
        """Tokens that a text which is corrupted has around it, and that count by ``data.max_length``."""
        return 0

    def text(self, example: Example) -> list[int]:
        """The ids of a plain text, nothing put around them."""
        assert isinstance(example, TextExample)
        return self._ids(example.text)

    def compared(self, example: Example) -> tuple[Encoded, ...]:
        """The answers of a preference, (chosen, rejected), or of a ranking, the best first."""
        if isinstance(example, PreferenceExample):
            sides: tuple[Content, ...] = (example.chosen, example.rejected)
        elif isinstance(example, RankingExample):
            sides = example.completions
        else:
            raise UserError("the row has no pair of answers", where=example.where, hint="give it chosen and rejected")
        encoded = [self.answer(example.prompt, side, example.where) for side in sides]
        border = min(len(one.prompt_ids) for one in encoded)  # unequal only where a template moved one
        return tuple(one.bordered(border) for one in encoded)

    def classified(self, example: ClassifiedExample) -> Encoded:
        """A text, or a pair, as the tokenizer itself puts it together, for that is how a pipeline reads it. All of it
        is an answer to nothing, no token of which is predicted."""
        texts = [example.text, *([] if example.text_pair is None else [example.text_pair])]
        ids = list(self._tokenizer(*texts)["input_ids"])
        return Encoded([], ids, [1] * len(ids))

    def anchored(self, example: Example, longest: int | None = None) -> tuple[Encoded, ...]:
        """Each text of a tuple as the tokenizer itself writes it, and cuts it to ``longest`` ids, for that is how what
        reads the model afterwards does it."""
        if not isinstance(example, AnchoredExample):
            raise UserError(
                "the row has no text that belongs to another", where=example.where, hint="give it anchor and positive"
            )
        cut = {} if longest is None else {"truncation": True, "max_length": longest}
        found = [list(self._tokenizer(text, **cut)["input_ids"]) for text in example.texts]
        return tuple(Encoded([], ids, [1] * len(ids)) for ids in found)

    def stepwise(self, example: StepwiseExample, separator: str) -> Encoded:
        """The steps of an answer, each followed by the separator, tokenised piece by piece as TRL does it. A step is
        judged where its separator has been read: its mask is that of the token that follows, behind the last step one
        that nothing reads."""
        behind = self._ids(separator)
        if not behind:
            what = f"{separator!r} has no token in the tokenizer of {self._role}"
            raise UserError(what, where="data.step_separator", hint="give one that has, such as a line break")
        ids, ends = list[int](), list[int]()
        for step in example.steps:
            ids += self._ids(step) + behind
            ends.append(len(ids))
        prompt = self._plain(example.prompt)
        return Encoded(prompt, [*ids, *ids[-1:]], [int(place in ends) for place in range(len(ids) + 1)])

    def prompt(self, example: Example) -> list[int]:
        """The ids that generation starts from."""
        prompt = prompt_of(example)
        if not prompt:
            raise UserError("the row has no prompt to answer", where=example.where, hint="leave the row out")
        if isinstance(prompt, str):
            return self._plain(prompt)
        require_template(self._tokenizer, example.where, self._role)
        return self._ids(render_prompt(self._tokenizer, prompt, example.where))

    def answer(self, prompt: Content, answer: Content, where: str) -> Encoded:
        """Prompt and answer, plain or conversational. A plain answer ends with EOS, a conversation as its template
        says, with EOS where that says nothing. Turns of others within the answer have mask 0; so has the first token
        of an answer to nothing."""
        if isinstance(prompt, str):
            return self._plain_answer(prompt, str(answer))
        messages = as_messages(answer)
        return self._ended(self._conversational_answer(prompt, messages, where), messages)

    def cut_answer(self, prompt: Content, answer: str, where: str) -> Encoded:
        """As ``answer``, of one that was cut at a limit: nothing ends it, no EOS and nothing of a template's."""
        if isinstance(prompt, str):
            return self._plain_answer(prompt, answer, ended=False)
        before = render_prompt(self._tokenizer, prompt, where)
        text = render_cut(self._tokenizer, prompt, answer, where)
        if not text.startswith(before):
            return self._moved(self._ids(before), self._ids(text))
        ids, (border,) = self._cut(text, [len(before)])
        return _masked(ids, [0] * border + [1] * (len(ids) - border), border)

    def over(self, sequence: Encoded, data: Data, *, sampled: bool) -> Over | None:
        """By how much a sequence exceeds what ``data`` allows; None where it fits. ``sampled``: a prompt alone."""
        limit, key = (
            (data.max_prompt_length, "data.max_prompt_length") if sampled else (data.max_length, "data.max_length")
        )
        return Over(len(sequence), limit, key) if len(sequence) > limit else None

    def room(self, prompt_ids: Sequence[int], positions: int) -> int:
        """Tokens that an answer to the prompt can have, of a model with so many positions; below 1: none."""
        return positions - len(prompt_ids)

    def cut(self, sequence: Encoded, data: Data, *, sampled: bool) -> Encoded:
        """The sequence as ``data`` allows it: its start."""
        return sequence.truncated(data.max_prompt_length if sampled else data.max_length)

    def _plain_answer(self, prompt: str, answer: str, *, ended: bool = True) -> Encoded:
        ids, (border,) = self._cut(prompt + answer, [len(prompt)])
        if not self._starts_special(ids):
            ids, border = self._prefix + ids, border + len(self._prefix)
        ids = self._with_eos(ids) if ended else ids
        return _masked(ids, [0] * border + [1] * (len(ids) - border), border)

    def _conversational_answer(self, prompt: Messages, answer: Messages, where: str) -> Encoded:
        require_template(self._tokenizer, where, self._role)
        before = render_prompt(self._tokenizer, prompt, where)
        others = any(message.role != "assistant" for message in answer)
        rendered = render_with_spans(self._tokenizer, prompt + answer, where) if others else None
        text = rendered.text if rendered else render(self._tokenizer, prompt + answer, where)
        if not text.startswith(before):
            if rendered is None:
                return self._moved(self._ids(before), self._ids(text))
            spoken = sum(message.role == "assistant" and message.trains for message in answer)
            return self._from_spans(replace(rendered, spans=rendered.spans[len(rendered.spans) - spoken :], moved=True))
        spans = [(start, end) for start, end in rendered.spans if end > len(before)] if rendered else []
        cuts = [len(before), *(max(place, len(before)) for span in spans for place in span)]
        ids, borders = self._cut(text, cuts)
        if not spans:
            return _masked(ids, [0] * borders[0] + [1] * (len(ids) - borders[0]), borders[0])
        return _masked(ids, _mask_of(len(ids), borders[1:]), borders[0])

    def _ended(self, encoded: Encoded, messages: Messages) -> Encoded:
        if self._missing_end is None or messages[-1].role != "assistant" or not messages[-1].trains:
            return encoded
        return encoded.followed(self._missing_end)

    def _moved(self, before: list[int], ids: list[int]) -> Encoded:
        border = 0
        while border < min(len(before), len(ids)) and before[border] == ids[border]:
            border += 1
        return replace(_masked(ids, [0] * border + [1] * (len(ids) - border), border), moved=True)

    def _dialogue(self, messages: Messages, loss_on: str, where: str) -> Encoded:
        require_template(self._tokenizer, where, self._role)
        last = last_learned(messages)
        alone = sum(message.role == "assistant" for message in messages) == 1 and not has_marks(self._tokenizer, where)
        if last and (loss_on == "completion" or (loss_on == "assistant" and alone)):
            return self.answer(messages[:last], messages[last : last + 1], where)
        if loss_on == "all":
            return self._ended(self._whole(self._ids(render(self._tokenizer, messages, where))), messages)
        return self._ended(self._from_spans(render_with_spans(self._tokenizer, messages, where)), messages)

    def _from_spans(self, rendered: Rendered) -> Encoded:
        ids, borders = self._cut(rendered.text, [place for span in rendered.spans for place in span])
        mask = _mask_of(len(ids), borders)
        first = mask.index(1) if 1 in mask else len(ids)
        last_trained = len(mask) - mask[::-1].index(1) if 1 in mask else len(ids)
        # Nothing after the last trained token can change its loss.
        return replace(_masked(ids[:last_trained], mask[:last_trained], first), moved=rendered.moved)

    def _whole(self, ids: list[int]) -> Encoded:
        return _masked(ids, [1] * len(ids), 0)

    def _cut(self, text: str, cuts: Sequence[int]) -> tuple[list[int], list[int]]:
        """The ids of a text and, for each place to cut at (characters, ascending), the number of ids before it.

        A cut is a token border where the ids of the text before it begin the ids of the whole. Otherwise all
        pieces are tokenised apart: then what comes before a cut has the ids it has alone.
        """
        ids = self._ids(text)
        borders = []
        for cut in cuts:
            head = self._head(text[:cut])
            if ids[: len(head)] != head:
                return self._cut_apart(text, cuts)
            borders.append(len(head))
        return ids, borders

    def _cut_apart(self, text: str, cuts: Sequence[int]) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        borders = []
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            ids += self._ids(text[start:end])
            borders.append(len(ids))
        return ids, borders[:-1]

    def _ids(self, text: str) -> list[int]:
        return self._text_ids(text) if text else []

    def _plain(self, text: str) -> list[int]:
        ids = self._ids(text)
        return ids if self._starts_special(ids) else self._prefix + ids

    def _starts_special(self, ids: list[int]) -> bool:
        """Whether a text spells out the BOS that would be put before it: it is not doubled."""
        return not self._prefix or ids[: len(self._prefix)] == self._prefix

    def _with_eos(self, ids: list[int]) -> list[int]:
        return ids if self._eos is None or ids[-1:] == [self._eos] else [*ids, self._eos]


def last_learned(messages: Messages) -> int:
    """The place of the assistant's last turn that is to be learned; 0 where there is none."""
    return max((at for at, one in enumerate(messages) if one.role == "assistant" and one.trains), default=0)


def _leading_specials(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before a text (a BOS or nothing). What it puts behind one is left out: an EOS at the
    end of a prompt would end the answer before it begins."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start]
    return []


def _masked(ids: list[int], mask: list[int], border: int) -> Encoded:
    response_mask = mask[border:]
    if border == 0 and response_mask:
        response_mask = [0, *response_mask[1:]]  # nothing predicts the first token
    return Encoded(ids[:border], ids[border:], response_mask)


def _mask_of(length: int, borders: Sequence[int]) -> list[int]:
    """1 within [start, end) of every pair of borders."""
    mask = [0] * length
    for start, end in zip(borders[::2], borders[1::2], strict=True):
        mask[start:end] = [1] * (end - start)
    return mask


def as_messages(content: Content) -> Messages:
    return (Message("assistant", content),) if isinstance(content, str) else content
