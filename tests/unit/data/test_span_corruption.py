"""Spans are taken out of a text as T5's pre-training takes them, and nothing is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distft.common.errors import UserError
from distft.config.algorithms.span import Span
from distft.config.data import Data
from distft.data.corruption import Ids
from distft.data.reading_marks import mark_apart
from distft.data.span_corruption import SpanCorruption
from distft.data.tokenizer_training import SENTINELS, train_tokenizer


def t5() -> Any:
    tokenizer = train_tokenizer(["the sky is blue and the sea is green " * 20], 320, reader="t5")
    mark_apart(tokenizer)
    return tokenizer


TOKENIZER = t5()
END, FIRST = TOKENIZER.eos_token_id, TOKENIZER.convert_tokens_to_ids(SENTINELS[0])


def draws(length: int, count: int, noise: float = 0.15, mean_span: float = 3.0) -> list[tuple[Ids, Ids, Ids]]:
    corrupt = SpanCorruption(TOKENIZER, longest=length, noise=noise, mean_span=mean_span)
    ids = 1000 + np.arange(length, dtype=np.int64)
    return [corrupt(ids, np.random.Generator(np.random.Philox(key=seed))) for seed in range(count)]


def spans(ids: Ids) -> list[list[int]]:
    """What stands behind each sentinel, and first of all what stands before the first."""
    assert ids[-1] == END
    found: list[list[int]] = [[]]
    for token in ids[:-1].tolist():
        if token < 1000:
            assert token == FIRST + len(found) - 1, "sentinels follow each other, each once"
            found.append([])
        else:
            found[-1].append(token)
    return found


@pytest.mark.parametrize(("length", "taken", "number"), [(100, 15, 5), (96, 14, 5), (20, 3, 1), (10, 2, 1), (2, 1, 1)])
def test_so_many_tokens_in_so_many_spans_and_the_text_is_what_both_say(length: int, taken: int, number: int) -> None:
    for prompt, answer, mask in draws(length, 50):
        kept, out = spans(prompt), spans(answer)
        assert mask.tolist() == [1] * len(answer)
        assert (len(kept), len(out), out[0]) == (number + 1, number + 1, [])
        assert (sum(map(len, out)), all(out[1:]), all(kept[:-1]), kept[-1]) == (taken, True, True, [])
        whole = [token for before, span in zip(kept[:-1], out[1:], strict=True) for token in [*before, *span]]
        assert whole == list(range(1000, 1000 + length))


def test_every_division_is_as_likely_as_any_other() -> None:
    """8 tokens in 2 spans: 7 ways for the one that are taken, 3 for the other; each in a seventh of the draws."""
    found = draws(12, 3500, noise=2 / 3, mean_span=4.0)
    first = np.bincount([len(spans(answer)[1]) for _, answer, _ in found], minlength=8)[1:]
    before = np.bincount([len(spans(prompt)[0]) for prompt, _, _ in found], minlength=4)[1:]
    # Five deviations of a binomial count.
    assert np.abs(first - 500).max() < 5 * (3500 * 1 / 7 * 6 / 7) ** 0.5
    assert np.abs(before - 3500 / 3).max() < 5 * (3500 * 2 / 9) ** 0.5


def test_a_seed_is_a_draw() -> None:
    once, again = (draws(60, 8) for _ in range(2))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(once, again, strict=True))
    assert len({tuple(prompt.tolist()) for prompt, _, _ in once}) == 8


def test_what_cannot_be_had_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"has no token <extra_id_0>.*\n.*t5, mt5, umt5, longt5"):
        SpanCorruption(train_tokenizer((), 300), longest=96, noise=0.15, mean_span=3.0)
    with pytest.raises(UserError, match=r"50 spans are taken out of 1000 tokens, .* 32 sentinels\n.*max_length=640"):
        SpanCorruption(TOKENIZER, longest=1000, noise=0.15, mean_span=3.0)
    draws(640, 1)


@pytest.mark.parametrize(("noise", "mean_span"), [(0.15, 3.0), (0.5, 1.0), (0.9, 2.5)])
def test_no_text_is_longer_corrupted_than_the_method_says(noise: float, mean_span: float) -> None:
    """Of the shorter ones neither; the longest is just as long. 32 tokens at most are 16 spans, of 32 sentinels."""
    method = Span(kind="span", noise=noise, mean_span=mean_span)
    for longest in range(2, 33):
        read, learned = method.sides(Data(max_length=longest))
        for length in range(2, longest + 1):
            [(prompt, answer, _)] = draws(length, 1, noise, mean_span)
            assert (len(prompt) <= read, len(answer) <= learned) == (True, True)
        assert (len(prompt), len(answer)) == (read, learned)
