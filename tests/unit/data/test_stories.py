"""The embedded stories: some longer than a block, told apart by what happens, never the same pair in two splits."""

from __future__ import annotations

from collections import Counter

import pytest

from distft.data.builtin import CITIES, SPLITS, THINGS, split_by_pair
from distft.data.stories import LABELS, STORY_SIZES, stories


@pytest.mark.parametrize("split", SPLITS)
def test_rows_of_every_label_about_the_splits_own_pairs(split: str) -> None:
    rows = list(stories(split))  # type: ignore[arg-type]
    assert len({row["text"] for row in rows}) == len(rows) == STORY_SIZES[split]
    counts = Counter(row["label"] for row in rows)
    assert set(counts) == set(LABELS)
    assert min(counts.values()) > len(rows) / len(LABELS) / 2
    for row in rows:
        named = [{word for word in words if word in row["text"]} for words in (THINGS, CITIES)]
        pairs = {(thing, city) for thing in named[0] for city in named[1]}
        assert not pairs or any(split_by_pair()[pair] == split for pair in pairs)
        assert row["label"] not in row["text"]
    long = sum(len(row["text"]) > 600 for row in rows)
    assert 0.2 < long / len(rows) < 0.3


def test_the_corpus_is_a_constant() -> None:
    assert next(stories()) == next(stories())
