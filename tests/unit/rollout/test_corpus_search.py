"""The search over a small corpus: BM25 by hand, and what it is asked and answers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from distft.rollout.corpus_search import CorpusSearch, Index

PASSAGES = ["Paris is the capital of France", "Rome is the capital of Italy", "Rome, Rome!"]


def test_scores_by_hand() -> None:
    """ "rome": in two of three passages; lengths 6, 6, 2, mean 14/3."""
    index, rarity = Index(PASSAGES), math.log(1 + 1.5 / 2.5)
    long = rarity * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 6 / (14 / 3)))
    short = rarity * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 2 / (14 / 3)))
    assert index._score(["rome"], index._counts[1]) == pytest.approx(long)
    assert index._score(["rome"], index._counts[2]) == pytest.approx(short)
    assert index.best("Rome?", 2) == [PASSAGES[2], PASSAGES[1]]
    assert index.best("the capital", 5) == PASSAGES[:2], "equal ones in their order; none without a common word"
    assert Index([]).best("anything", 3) == []


def test_a_policy_that_looks_it_up(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("\n\n".join(PASSAGES))
    one = CorpusSearch(str(tmp_path / "corpus.txt"), passages=2)
    one.reset({"prompt": "What is the capital of Italy?", "answer": "Rome"})
    assert one.step("search: capital Italy") == (f"{PASSAGES[1]}\n{PASSAGES[0]}", 0.0, False)
    assert one.step("search: xyz") == ("nothing found", 0.0, False)
    assert one.step("searchlight Rome") == (None, 0.0, True), "no call: another word"
    assert one.step(" rome ") == (None, 1.0, True)
    assert one.step("Paris") == (None, 0.0, True)


def test_wrong_arguments_and_rows(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        CorpusSearch(str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match="at least 1"):
        CorpusSearch(str(tmp_path / "none.txt"), passages=0)
    (tmp_path / "corpus.txt").write_text("one")
    with pytest.raises(ValueError, match="no column answer"):
        CorpusSearch(str(tmp_path / "corpus.txt")).reset({"prompt": "?"})
