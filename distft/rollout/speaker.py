"""A model of this process that answers: the same generator, templates and stop tokens as in a run, and no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from distft.batches import Array, Batch
from distft.common.errors import UserError
from distft.config.models import Policy
from distft.config.training import Rollout
from distft.data.decode import answer_text
from distft.data.encode_apart import encoder_for
from distft.data.formats import Content, PromptExample
from distft.engine.process_group import accelerator
from distft.models.adapters.merging import merge_adapter
from distft.models.adapters.side_by_side import SideBySide
from distft.models.adapters.virtual_tokens import num_virtual_tokens
from distft.models.families.family import Family, family_at, find_family
from distft.models.families.table import family_of
from distft.models.padding import padding
from distft.models.rope import settle_rope
from distft.models.selected import SelectedLogits
from distft.models.stops import stop_tokens
from distft.models.tokenizer import load_tokenizer
from distft.planning.positions import position_limit
from distft.rollout.generator import Sampling
from distft.rollout.hf import HfGenerator
from distft.rollout.sampling import uniforms
from distft.rollout.text_stream import TextStream


@dataclass(frozen=True)
class Question:
    """A prompt, ready to be answered. ``number`` picks its draws: the same number, seed and settings give the same
    tokens, whatever else is in the batch."""

    prompt: Content
    number: int = 0
    where: str = ""


@dataclass(frozen=True)
class Answer:
    """What was said: its ``text`` without special tokens; all its tokens' ``ids``; ``ended`` by itself, or cut at the
    limit; ``logprob`` of all of them under the sampling temperature, in nats."""

    text: str
    ids: tuple[int, ...]
    ended: bool
    logprob: float


class Speaker:
    """A language model with its tokenizer, on this process's accelerator. ``positions``: the longest sequence that it
    has any for, in tokens; None where they go on. ``choose``: called before it generates, where others do with the same
    weights and adapters of their own."""

    def __init__(
        self, name: str, tokenizer: Any, module: SelectedLogits, family: Family, stops: tuple[int, ...],
        choose: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._choose = choose
        self.name, self.tokenizer, self.module, self.stop_tokens = name, tokenizer, module, stops
        self.family = family
        config = module.model.config
        self.positions = position_limit(config.to_dict())
        self._encoder = encoder_for(tokenizer)
        self._generator = HfGenerator(
            module.model, stop_tokens=stops, pad_token=padding(tokenizer, config) or 0, synchronized=False
        )

    @classmethod
    def load(cls, name: str, model: Policy, *, adapter: str | None = None, longest: int | None = None) -> Speaker:
        """The model at ``model.path``, with the PEFT ``adapter`` of that folder merged into it. ``longest``: the tokens
        of the longest sequence, for ropes that depend on it; None: as transformers chooses them, by what it sees.

        Raises UserError where there is no language model, no tokenizer, or no such adapter.
        """
        tokenizer, module, family = cls._read(model)
        if adapter is not None:
            module = module.around(merge_adapter(module.model, adapter))
        return cls(name, tokenizer, _ready(module, longest), family, stop_tokens(tokenizer, module, model.stop_tokens))

    @classmethod
    def load_together(
        cls, names: Sequence[str], model: Policy, adapters: Sequence[str | None], *, longest: int | None = None
    ) -> list[Speaker]:
        """As ``load``, several over one base that is held once: each with the LoRA adapter of a folder beside it, or
        with none."""
        tokenizer, module, family = cls._read(model)
        beside = SideBySide(module.model, [folder for folder in adapters if folder is not None])
        ready, stops = _ready(module, longest), stop_tokens(tokenizer, module, model.stop_tokens)
        return [
            cls(name, tokenizer, ready, family, stops, partial(beside.use, folder))
            for name, folder in zip(names, adapters, strict=True)
        ]

    @staticmethod
    def _read(model: Policy) -> tuple[Any, SelectedLogits, Family]:
        assert model.path is not None
        tokenizer = load_tokenizer(
            model.path, trust_remote_code=model.trust_remote_code, chat_template=model.chat_template
        )
        family = find_family(family_at(family_of("policy").name, model.path, model))
        return tokenizer, family.load(model.path, model, dropout=False).module, family

    def encoded(self, question: Question) -> Array:
        """The ids of a prompt, as a run's generator would see them. Raises UserError, as ``Encoder.prompt``."""
        return np.array(self._encoder.prompt(PromptExample(question.prompt, where=question.where)), np.int32)

    def answers(
        self, questions: Sequence[Question], settings: Rollout, seed: int, *, greedy: bool = False
    ) -> Iterator[Answer]:
        """An answer to each question, in order, ``settings.max_batch_per_rank`` at once. Raises UserError for a prompt
        that the template refuses, or with which the model would run out of positions."""
        encoded = [self.require_room(question, settings) for question in questions]
        for start in range(0, len(questions), settings.max_batch_per_rank):
            part = slice(start, start + settings.max_batch_per_rank)
            yield from self._batch(questions[part], encoded[part], settings, seed, greedy=greedy)

    def streamed(
        self, question: Question, settings: Rollout, seed: int, write: Callable[[str], None], *, greedy: bool = False
    ) -> Answer:
        """One answer, its text written piece by piece as it comes. Raises as ``answers``."""
        ids = self.require_room(question, settings)
        stream = TextStream(self.tokenizer, ids, self.stop_tokens, write)
        [answer] = self._batch([question], [ids], settings, seed, greedy=greedy, listener=stream)
        return answer

    def _batch(
        self,
        questions: Sequence[Question],
        encoded: Sequence[Array],
        settings: Rollout,
        seed: int,
        *,
        greedy: bool = False,
        listener: Callable[[Array], None] | None = None,
    ) -> list[Answer]:
        numbers = [question.number for question in questions]
        made = self._generated(encoded, numbers, settings, seed, greedy=greedy, listener=listener)
        return [
            Answer(
                text=answer_text(
                    self.tokenizer, question.prompt, ids, made.ragged("response_ids")[row],
                    ended=bool(made.dense("ended")[row]), where=question.where,
                ),
                ids=tuple(made.ragged("response_ids")[row].tolist()),
                ended=bool(made.dense("ended")[row]),
                logprob=float(made.ragged("sampled_logprobs")[row].sum(dtype=np.float64)),
            )
            for row, (question, ids) in enumerate(zip(questions, encoded, strict=True))
        ]  # fmt: skip

    def continued(
        self, encoded: Sequence[Array], settings: Rollout, seed: int, *, greedy: bool = False
    ) -> Iterator[list[int]]:
        """What is written on behind these ids, token by token, ``settings.max_batch_per_rank`` at once; the draws of
        the first are those of question 0. Whoever asks sees to it that there is room."""
        for start in range(0, len(encoded), settings.max_batch_per_rank):
            part = encoded[start : start + settings.max_batch_per_rank]
            numbers = range(start, start + len(part))
            made = self._generated(part, numbers, settings, seed, greedy=greedy)
            yield from (made.ragged("response_ids")[row].tolist() for row in range(len(part)))

    def _generated(
        self,
        encoded: Sequence[Array],
        numbers: Sequence[int],
        settings: Rollout,
        seed: int,
        *,
        greedy: bool,
        listener: Callable[[Array], None] | None = None,
    ) -> Batch:
        sampling = Sampling(
            settings.max_new_tokens,
            settings.min_new_tokens,
            settings.temperature,
            settings.top_p,
            settings.top_k,
            greedy,
        )
        self._choose()
        draws = [uniforms(seed, 0, number, sampling.max_new_tokens) for number in numbers]
        return self._generator.generate(encoded, draws, sampling, listener)

    def require_room(self, question: Question, settings: Rollout) -> Array:
        """The ids of a prompt, behind which an answer has room. Raises as ``answers``."""
        ids, new, limit = self.encoded(question), settings.max_new_tokens, self.positions
        limit = None if limit is None else limit - num_virtual_tokens(self.module.model)
        needed = self.family.positions(len(ids), new)
        if limit is not None and needed > limit:
            room = [most for most in (limit, limit - len(ids)) if self.family.positions(len(ids), most) <= limit]
            fits = max(room, default=0)
            raise UserError(
                f"{self.name} has learned {limit} positions: {len(ids)} tokens of prompt and {new} new ones are "
                f"{needed}",
                where=question.where,
                hint=f"max_new_tokens={fits} fits" if fits > 0 else "a shorter prompt, or a model with more positions",
            )
        return ids


def _ready(module: SelectedLogits, longest: int | None) -> SelectedLogits:
    """On this process's accelerator, to be read only."""
    if longest is not None:
        settle_rope(module.model, longest)
    return module.requires_grad_(requires_grad=False).eval().to(accelerator())
