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
from distft.data.corruption import Ids, order
from distft.data.reading_marks import reads_apart

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SpanCorruption:
    """See ``Corruption``. Raises UserError for a tokenizer that is no T5's."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, noise: float, mean_span: float) -> None:
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

    def __call__(self, ids: Ids, random: np.random.Generator) -> tuple[Ids, Ids, Ids]:
        """See ``Corruption``. Raises UserError for a text with more spans than the tokenizer has sentinels."""
        taken, kept = self._lengths(len(ids), random)
        read, answer, at = [], [], 0
        for sentinel, num_kept, num_taken in zip(self._sentinels[: len(taken), None], kept, taken, strict=True):
            read += [ids[at : at + num_kept], sentinel]
            answer += [sentinel, ids[at + num_kept : at + num_kept + num_taken]]
            at += num_kept + num_taken
        prompt, response = np.concatenate([*read, self._end]), np.concatenate([*answer, self._end])
        return prompt, response, np.ones_like(response)

    def _lengths(self, length: int, random: np.random.Generator) -> tuple[Ids, Ids]:
        """Of the spans that are taken, and of what is kept before each."""
        num_taken = min(max(round(length * self._noise), 1), length - 1)
        num_spans = min(max(round(num_taken / self._mean_span), 1), num_taken, length - num_taken)
        if num_spans > len(self._sentinels):
            raise UserError(
                f"{num_spans} spans are taken out of {length} tokens, and the tokenizer has {len(self._sentinels)} "
                "sentinels",
                where="data.max_length",
                hint=f"data.max_length={int(len(self._sentinels) * self._mean_span / self._noise)}",
            )
        return _divided(num_taken, num_spans, random), _divided(length - num_taken, num_spans, random)


def _divided(total: int, parts: int, random: np.random.Generator) -> Ids:
    """A total as a sum of so many numbers above 0, every such sum as likely as any other."""
    borders = np.sort(order(total - 1, random)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], borders, [total]])).astype(np.int64)
