"""What an answer has in common with the one that was wanted: exact match, F1, ROUGE, BLEU, chrF.

ROUGE is ``rouge-score``'s (no stemming; Lsum takes lines for sentences), BLEU and chrF are ``sacrebleu``'s of the whole
corpus, with its defaults (13a, chrF2). The libraries are imported where they are used.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distft.evaluation.measures import Measure, Numbers, mean

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
NAMES = ("exact_match", "f1", *ROUGE, "bleu", "chrf")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def text_measures(
    answers: Sequence[str], references: Sequence[str], names: Sequence[str] = NAMES
) -> dict[str, Measure]:
    """``exact_match, f1, rouge1, rouge2, rougeL, rougeLsum`` (0 to 1) and ``bleu, chrf`` (0 to 100), or those of
    ``names``, of one reference an answer."""
    both = list(zip(answers, references, strict=True))
    found: dict[str, Measure] = {}
    if "exact_match" in names:
        found["exact_match"] = mean([exact_match(answer, reference) for answer, reference in both])
    if "f1" in names:
        found["f1"] = mean([token_f1(answer, reference) for answer, reference in both])
    if rouge := [name for name in ROUGE if name in names]:
        found |= _rouge(answers, references, rouge)
    if "bleu" in names:
        from sacrebleu.metrics.bleu import BLEU

        found["bleu"] = _of_corpus(BLEU(), answers, references)
    if "chrf" in names:
        from sacrebleu.metrics.chrf import CHRF

        found["chrf"] = _of_corpus(CHRF(), answers, references)
    return found


def exact_match(answer: str, reference: str) -> float:
    """1 where the two are equal as ``normalized``, else 0 (SQuAD, Rajpurkar et al. 2016)."""
    return float(normalized(answer) == normalized(reference))


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of precision and recall of the words, as ``normalized``, that the two have in common (SQuAD).
    Of two empty texts 1, of one 0."""
    ours, theirs = normalized(answer).split(), normalized(reference).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def normalized(text: str) -> str:
    """Small letters, without ASCII punctuation, English articles and repeated white space."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(_ARTICLES.sub(" ", bare).split())


def _rouge(answers: Sequence[str], references: Sequence[str], names: Sequence[str]) -> dict[str, Measure]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(names))
    scored = [scorer.score(reference, answer) for answer, reference in zip(answers, references, strict=True)]
    return {name: mean([one[name].fmeasure for one in scored]) for name in names}


def _of_corpus(metric: Any, answers: Sequence[str], references: Sequence[str]) -> Measure:
    """From the statistics that sacrebleu sums up over the segments of a corpus, as its own significance tests do."""
    rows = np.array(metric._extract_corpus_statistics(list(answers), [list(references)]), np.float64)
    return Measure(rows, _scores_of(metric._compute_score_from_stats))


def _scores_of(score: Callable[[list[int]], Any]) -> Callable[[Numbers], Numbers]:
    def values(sums: Numbers) -> Numbers:
        return np.array([score([round(number) for number in one]).score for one in sums.tolist()], np.float64)

    return values
