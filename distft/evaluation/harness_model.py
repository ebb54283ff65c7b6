"""A model as ``lm-eval`` asks one: likelihoods by the passes of ``distft eval``, answers by its generator. The only
file that knows how a model of that package looks.

Which tokens a question has is the package's own code (``TemplateLM``), so that figures are those of its own model for
transformers, but that what is longer than the model has positions for is cut one token sooner: here the last token of
an answer is read, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from distft.batches import Array, Batch, Ragged
from distft.common.errors import UserError
from distft.config.training import Rollout
from distft.evaluation.passes import likelihoods
from distft.models.padding import padding
from distft.rollout.speaker import Speaker

_NEW_TOKENS: Final = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # first named counts
_MOST_TOKENS: Final = 256  # lm-eval's own, where a task says none
_LONGEST: Final = 2048  # as lm-eval takes it, where a model does not say


@dataclass(frozen=True)
class Asked:
    """How a task wants answers: ``until`` any of these texts, drawn by ``settings`` unless ``greedy``."""

    until: tuple[str, ...]
    settings: Rollout
    greedy: bool

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Asked:
        """What a task's ``generation_kwargs`` say, as lm-eval reads them. UserError for what our generator has not."""
        rest = dict(said)
        until = rest.pop("until", None) or ()
        named = [rest.pop(key, None) for key in _NEW_TOKENS]
        most = next((int(value) for value in named if value is not None), _MOST_TOKENS)
        temperature, drawn = float(rest.pop("temperature", None) or 0.0), rest.pop("do_sample", None)
        greedy = not (temperature > 0 if drawn is None else drawn)
        limits = {key: rest.pop(key) for key in ("top_p", "top_k") if rest.get(key) is not None}
        if other := sorted(key for key, value in rest.items() if not (key == "num_beams" and value == 1)):
            what = f"a task asks for {', '.join(f'{key}={rest[key]}' for key in other)} in its generation_kwargs"
            raise UserError(what, where="--tasks", hint="answers are greedy, or drawn by temperature, top_p and top_k")
        drawing = {} if greedy else {"temperature": temperature or 1.0, **limits}
        texts = (until,) if isinstance(until, str) else tuple(until)
        return cls(texts, Rollout(max_new_tokens=most, **drawing), greedy)


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A decoder with its tokenizer. ``seed``: of answers that are drawn."""

    def __init__(self, speaker: Speaker, seed: int) -> None:
        super().__init__()
        self.speaker, self.tokenizer, self.seed = speaker, speaker.tokenizer, seed

    @property
    def eot_token_id(self) -> int:
        """The end of a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What a text without anything before it begins with."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def max_length(self) -> int:
        """Tokens that the model has learned to read at once."""
        config = self.speaker.module.model.config
        return self.speaker.positions or int(getattr(config, "max_position_embeddings", None) or _LONGEST)

    @property
    def tokenizer_name(self) -> str:
        """For the package's own caches, which are not used."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """With what the tokenizer puts around texts, but for a text that begins with it already."""
        if add_special_tokens is None:
            begin = self.tokenizer.bos_token
            add_special_tokens = not (begin and string.startswith(begin))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation by the model's chat template."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )  # fmt: skip

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Of each (_, context, continuation): the continuation's log-probability in nats, and whether each of its
        tokens is the likeliest. What is too long loses its beginning."""
        if not requests:
            return []
        rows = [(before[-max(1, self.max_length - len(after)) :], after) for _, before, after in requests]
        numbers = np.arange(len(rows), dtype=np.int64)
        batch = Batch({
            "prompt_ids": Ragged.of([before for before, _ in rows], np.int32),
            "response_ids": Ragged.of([after for _, after in rows], np.int32),
            "response_mask": Ragged.of([[1] * len(after) for _, after in rows], np.uint8),
            "sample": numbers, "unit": numbers,
        })  # fmt: skip
        pad = padding(self.tokenizer, self.speaker.module.model.config) or 0
        found = likelihoods(self.speaker.family, self.speaker.module, batch, pad)
        return [
            (float(logprob), bool(correct == count))
            for logprob, count, correct in zip(found.logprobs, found.num_tokens, found.num_correct, strict=True)
        ]

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """The log-probability of each whole text, in nats, in windows of what the model can read."""
        windows, of = [], []
        for number, request in enumerate(requests):
            parts = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length - 1, context_len=1
            )
            for before, after in map(make_disjoint_window, parts):
                windows.append((None, before, after))
                of.append(number)
        sums = np.zeros(len(requests))
        np.add.at(sums, np.array(of, np.int64), [logprob for logprob, _ in self._loglikelihood_tokens(windows)])
        return [float(total) for total in sums]

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """An answer to each (context, generation_kwargs), up to the first of its stop texts."""
        found: dict[int, str] = {}
        asked = [Asked.of(request.args[1]) for request in requests]
        for one in dict.fromkeys(map(repr, asked)):
            numbers = [number for number, other in enumerate(asked) if repr(other) == one]
            found |= zip(numbers, self._answers([requests[n].args[0] for n in numbers], asked[numbers[0]]), strict=True)
        return [found[number] for number in range(len(requests))]

    def _answers(self, contexts: Sequence[str], asked: Asked) -> Iterator[str]:
        room = self.max_length - asked.settings.max_new_tokens
        if room < 1:
            what = (
                f"a task asks for answers of {asked.settings.max_new_tokens} tokens, of {self.max_length} that it reads"
            )
            raise UserError(what, where=f"eval {self.speaker.name}", hint="another task, or another model")
        encoded: list[Array] = [np.array(self.tok_encode(context)[-room:], np.int32) for context in contexts]
        for ids in self.speaker.continued(encoded, asked.settings, self.seed, greedy=asked.greedy):
            text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
            for stop in filter(None, asked.until):
                text = text.partition(stop)[0]
            yield text
