"""Masked language modelling: some tokens of a text are chosen, most of them are hidden, and all of them are learned.

Devlin et al. 2019, section 3.1: of the chosen tokens 80 % become the mask, 10 % a token at random, and 10 % stay as
they are; each by itself. As their code does it with ``whole_words``, words are taken in an order drawn at random, and
one that would exceed the number of tokens is passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from distft.common.errors import UserError
from distft.data.corruption import Ids, order
from distft.data.reading_marks import reads_both_ways

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HIDDEN, _REPLACED = 0.8, 0.1
# How the vocabularies of tokenizers write that a token begins a word, and WordPiece that it does not.
_BEGINS, _GOES_ON = ("\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", "\N{LOWER ONE EIGHTH BLOCK}"), "##"


class MaskedTokens:
    """See ``Corruption``. Raises UserError for a tokenizer that is no encoder's, or has no mask, and where what it puts
    around a text leaves no two tokens of the longest."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, longest: int, masked: float, whole_words: bool) -> None:
        if tokenizer.mask_token_id is None or not reads_both_ways(tokenizer):
            raise UserError(
                "has no token that masks others, or is no encoder's tokenizer",
                where=str(tokenizer.name_or_path) or "models.policy",
                hint="mlm takes BERT, RoBERTa, ModernBERT and DeBERTa; algorithm.kind=pretrain takes decoders",
            )
        self._masked, self._mask = masked, int(tokenizer.mask_token_id)
        vocabulary = tokenizer.get_vocab()
        special = set(tokenizer.all_special_ids)
        self._others = np.array(sorted(set(vocabulary.values()) - special), np.int64)
        self._begins = _word_beginnings(vocabulary) if whole_words else None
        bare, full = (list(tokenizer("a", add_special_tokens=plain)["input_ids"]) for plain in (False, True))
        before = full.index(bare[0])
        self._before, self._behind = (
            np.array(ids, np.int64) for ids in (full[:before], full[before + len(bare) :])
        )  # fmt: skip
        around = len(self._before) + len(self._behind)
        if longest < around + 2:
            raise UserError(
                f"{longest} tokens leave no two of a text beside the {around} that the tokenizer puts around it",
                where="data.max_length",
                hint=f"data.max_length={around + 2} at least",
            )

    def __call__(self, ids: Ids, random: np.random.Generator) -> tuple[Ids, Ids, Ids]:
        """See ``Corruption``: both as long as the text with what the tokenizer puts around it."""
        chosen = self._chosen(ids, random)
        kind, other = random.random(len(ids)), random.random(len(ids))
        replaced = self._others[(other * len(self._others)).astype(np.int64)]
        read = np.where(kind < _HIDDEN, self._mask, np.where(kind < _HIDDEN + _REPLACED, replaced, ids))
        texts = (np.where(chosen, read, ids), ids)
        prompt, response = (np.concatenate([self._before, text, self._behind]) for text in texts)
        learned = np.pad(chosen.astype(np.int64), (len(self._before), len(self._behind)))
        return prompt, response, learned

    def _chosen(self, ids: Ids, random: np.random.Generator) -> npt.NDArray[np.bool_]:
        """Which tokens: the nearest number to the share, at least one; of whole words at most that number, unless every
        word is longer, then the first that is drawn."""
        wanted = max(1, round(len(ids) * self._masked))
        chosen = np.zeros(len(ids), np.bool_)
        if self._begins is None:
            chosen[order(len(ids), random)[:wanted]] = True
            return chosen
        begins = self._begins[ids]
        begins[0] = True
        borders = np.append(np.flatnonzero(begins), len(ids))
        drawn = order(len(borders) - 1, random)
        left = wanted
        for word in drawn:
            start, end = borders[word], borders[word + 1]
            if end - start <= left:
                chosen[start:end] = True
                left -= end - start
        if left == wanted:
            chosen[borders[drawn[0]] : borders[drawn[0] + 1]] = True
        return chosen


def _word_beginnings(vocabulary: dict[str, int]) -> npt.NDArray[np.bool_]:
    """Of every token whether a word begins with it, as the vocabulary writes it."""
    goes_on = any(token.startswith(_GOES_ON) for token in vocabulary)
    found = np.ones(max(vocabulary.values()) + 1, np.bool_)
    for token, number in vocabulary.items():
        found[number] = not token.startswith(_GOES_ON) if goes_on else token.startswith(_BEGINS)
    return found
