"""Tokens are masked as BERT's pre-training masks them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distft.common.errors import UserError
from distft.data.corruption import Ids
from distft.data.masked_tokens import MaskedTokens
from distft.data.reading_marks import mark_both_ways
from distft.data.tokenizer_training import train_tokenizer
from tests.unit.models.encoders import tokenizer as words_of


def bert(tokenizer: Any) -> Any:
    mark_both_ways(tokenizer)
    return tokenizer


PIECES = bert(train_tokenizer(["the sky is blue and the sea is green " * 20], 290, reader="bert"))


def draws(tokenizer: Any, ids: list[int], count: int, **settings: Any) -> list[tuple[Ids, Ids, Ids]]:
    corrupt = MaskedTokens(tokenizer, **{"longest": len(ids) + 2, "masked": 0.15, "whole_words": False, **settings})
    return [corrupt(np.array(ids, np.int64), np.random.Generator(np.random.Philox(key=n))) for n in range(count)]


def test_fifteen_percent_are_learned_and_of_them_eighty_ten_ten() -> None:
    """Counted over 200 texts of 100 tokens: 15 each, none of them beside the text; within five deviations."""
    tokenizer = bert(words_of("bert"))
    ids = np.random.default_rng(1).integers(5, 96, 100).tolist()
    found = draws(tokenizer, ids, 200)
    kinds = np.zeros(3)
    for read, whole, learned in found:
        assert whole.tolist() == [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
        assert learned.sum() == 15
        assert (learned[0], learned[-1]) == (0, 0)
        assert (read == whole)[learned == 0].all()
        at = learned == 1
        masked = read[at] == tokenizer.mask_token_id
        kinds += [masked.sum(), (~masked & (read[at] != whole[at])).sum(), (read[at] == whole[at]).sum()]
    # One token in 91 is replaced by itself.
    expected = np.array([0.8, 0.1 * 90 / 91, 0.1 + 0.1 / 91])
    assert np.abs(kinds / 3000 - expected).max() < 5 * (0.16 / 3000) ** 0.5
    places = np.sum([learned[1:-1] for _, _, learned in found], axis=0)
    assert np.abs(places - 30).max() < 5 * (200 * 0.15 * 0.85) ** 0.5
    assert not {int(token) for read, _, _ in found for token in read[1:-1]} & {0, 1, 2, 3}  # no special token but mask


def test_whole_words_are_chosen_whole() -> None:
    ids = PIECES("the blue sky and a green sea is green", add_special_tokens=False)["input_ids"]
    words: list[list[int]] = []
    for place, token in enumerate(PIECES.convert_ids_to_tokens(ids)):
        if place == 0 or token.startswith("\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"):
            words.append([])
        words[-1].append(place)
    assert len(words) == 9
    assert max(map(len, words)) > 1
    found = [learned[1:-1] for _, _, learned in draws(PIECES, ids, 100, masked=0.4, whole_words=True)]
    assert all(len({int(learned[place]) for place in word}) == 1 for learned in found for word in words)
    assert all(1 <= learned.sum() <= round(0.4 * len(ids)) for learned in found)
    single = [learned[1:-1] for _, _, learned in draws(PIECES, ids, 100, masked=0.4)]
    assert any(len({int(learned[place]) for place in word}) > 1 for learned in single for word in words)


def test_a_word_longer_than_the_share_is_chosen_all_the_same() -> None:
    ids = PIECES("zzzzzzzz", add_special_tokens=False)["input_ids"]
    assert len(ids) == 8
    assert [learned.sum() for _, _, learned in draws(PIECES, ids, 3, whole_words=True)] == [8, 8, 8]


def test_wordpiece_says_which_tokens_go_on() -> None:
    from distft.data.masked_tokens import _word_beginnings

    assert _word_beginnings({"blue": 0, "##ish": 1, "sky": 2}).tolist() == [True, False, True]
    assert _word_beginnings({"\N{LOWER ONE EIGHTH BLOCK}blue": 0, "ish": 1}).tolist() == [True, False]


def test_what_is_no_encoders_tokenizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"no token that masks others.*\n.*mlm takes BERT"):
        MaskedTokens(train_tokenizer((), 300), longest=96, masked=0.15, whole_words=False)


def test_two_tokens_of_a_text_are_the_least_that_there_must_be_room_for() -> None:
    MaskedTokens(PIECES, longest=4, masked=0.15, whole_words=False)
    with pytest.raises(UserError, match=r"3 tokens leave no two .* the 2 that .*\n.*max_length=4 at least"):
        MaskedTokens(PIECES, longest=3, masked=0.15, whole_words=False)
