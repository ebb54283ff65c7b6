"""The libraries' own numbers."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf

from distft.evaluation.bootstrap import estimate
from distft.evaluation.text_scores import ROUGE, exact_match, text_measures, token_f1

ANSWERS = (
    "The cat sat on the mat, and slept.",
    "Let it dry.\nWipe the kettle with a soft cloth.",
    "Yes, a camera is a good present for her.",
    "",
    "Über den Wolken — 3.5 Grad!",
)
REFERENCES = (
    "A cat was sitting on the mat and slept.",
    "Wipe your kettle with a soft, dry cloth.\nThen let it dry.",
    "Yes, a camera is a good present.",
    "Nothing was said.",
    "Über den Wolken 3.5 Grad",
)


def test_rouge_equals_the_library() -> None:
    found = text_measures(ANSWERS, REFERENCES)
    scorer = RougeScorer(list(ROUGE))
    for name in ROUGE:
        scores = [scorer.score(one, other)[name].fmeasure for other, one in zip(ANSWERS, REFERENCES, strict=True)]
        assert found[name].total == pytest.approx(np.mean(scores))
        assert 0.2 < found[name].total < 0.9
    assert found["rougeL"].total != found["rougeLsum"].total


def test_bleu_and_chrf_equal_the_library_on_all_rows_and_on_some() -> None:
    found = text_measures(ANSWERS, REFERENCES)
    for rows in (range(5), (0, 1), (2, 2, 4, 0)):
        answers, references = [ANSWERS[row] for row in rows], [[REFERENCES[row] for row in rows]]
        assert found["bleu"].of(list(rows)).total == pytest.approx(corpus_bleu(answers, references).score)
        assert found["chrf"].of(list(rows)).total == pytest.approx(corpus_chrf(answers, references).score)
    interval = estimate(found["bleu"], resamples=200)
    assert 0 < interval.low < interval.value < interval.high <= 100


def test_exact_match_and_f1_worked_by_hand() -> None:
    assert exact_match("The Cat!", "cat") == 1.0
    assert exact_match("two cats", "two dogs") == 0.0
    assert token_f1("the red house by a river", "red house") == pytest.approx(2 * 2 / (4 + 2))  # red house by river
    assert token_f1("go go", "go") == pytest.approx(2 / 3)  # a word is common as often as both have it
    assert (token_f1("", ""), token_f1("word", "")) == (1.0, 0.0)
