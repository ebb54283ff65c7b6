"""Span corruption: spans are taken out of a text, a sentinel stays in place of each, and what was taken is the answer.

    Thank you for inviting me to your party last week .
    Thank you <extra_id_0> me to your party <extra_id_1> week . </s>
    <extra_id_0> for inviting <extra_id_1> last </s>

Raffel et al. 2020, section 3.1.4, as their ``random_spans_noise_mask`` draws it: ``noise`` of the tokens in so many
spans that their mean length is ``mean_span``, every division into spans as likely as any other, the text's first token
never taken.
"""

from __future__ import annotations

from itertools import count, takewhile
from typing import TYPE_CHECKING

import numpy as np

from distft.common.errors import UserError
from distft.config.algorithms.span import num_taken
from distft.data.corruption import Ids, order
from distft.data.reading_marks import reads_apart

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SpanCorruption:
    """See ``Corruption``. Raises UserError for a tokenizer that is no T5's, or has fewer sentinels than the longest
    text has spans."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, longest: int, noise: float, mean_span: float) -> None:
        self._noise, self._mean_span = noise, mean_span
        vocabulary, eos = tokenizer.get_vocab(), tokenizer.eos_token_id
        names = takewhile(vocabulary.__contains__, (f"<extra_id_{number}>" for number in count()))
        self._sentinels = np.array([vocabulary[name] for name in names], np.int64)
        if not len(self._sentinels) or eos is None or not reads_apart(tokenizer):
            raise UserError(
                "has no token <extra_id_0>, which stands in place of a span that is taken out, or is no "
                "encoder-decoder's tokenizer",
                where=str(tokenizer.name_or_path) or "models.policy",
                hint="span takes T5 and its kin: t5, mt5, umt5, longt5; algorithm.kind=pretrain and mlm take others",
            )
        self._end = np.array([eos], np.int64)
        self._require_sentinels(longest)

    def __call__(self, ids: Ids, random: np.random.Generator) -> tuple[Ids, Ids, Ids]:
        """See ``Corruption``."""
        taken, kept = self._lengths(len(ids), random)
        read, answer, at = [], [], 0
        for sentinel, before, span in zip(self._sentinels[: len(taken), None], kept, taken, strict=True):
            read += [ids[at : at + before], sentinel]
            answer += [sentinel, ids[at + before : at + before + span]]
            at += before + span
        prompt, response = np.concatenate([*read, self._end]), np.concatenate([*answer, self._end])
        return prompt, response, np.ones_like(response)

    def _lengths(self, length: int, random: np.random.Generator) -> tuple[Ids, Ids]:
        """Of the spans that are taken, and of what is kept before each."""
        taken, spans = num_taken(length, self._noise, self._mean_span)
        return _divided(taken, spans, random), _divided(length - taken, spans, random)

    def _require_sentinels(self, longest: int) -> None:
        _, spans = num_taken(longest, self._noise, self._mean_span)
        there = len(self._sentinels)
        if spans > there:
            raise UserError(
                f"{spans} spans are taken out of {longest} tokens, and the tokenizer has {there} sentinels",
                where="data.max_length",
                hint=f"data.max_length={int(there * self._mean_span / self._noise)}",
            )


def _divided(total: int, parts: int, random: np.random.Generator) -> Ids:
    """A total as a sum of so many numbers above 0, every such sum as likely as any other."""
    borders = np.sort(order(total - 1, random)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], borders, [total]])).astype(np.int64)
