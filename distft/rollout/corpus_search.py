"""The environment ``distft.rollout.corpus_search:CorpusSearch``: a policy that may look things up before it answers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from distft.rollout.environment import answer_of

_CALL: Final = re.compile(r"search\b:?\s*(.*)", re.DOTALL)
_K1: Final = 1.2
_B: Final = 0.75


class CorpusSearch:
    """A turn ``search: capital of France`` is answered with the passages that fit best; any other is the policy's
    answer, worth 1 where it is the row's column ``answer`` (case, and white space around both, aside), else 0.

    ``corpus`` is a text file, a passage a line; ``passages`` of them are answered at most, a line each, the best first;
    ``nothing found`` where no word of the question is in any.
    """

    def __init__(self, corpus: str, passages: int = 1) -> None:
        if passages < 1:
            raise ValueError(f"passages must be at least 1, not {passages}")
        self._index, self._passages = _index_of(str(Path(corpus).expanduser().absolute())), passages

    def reset(self, row: Mapping[str, Any]) -> None:
        """Takes the row's ``answer``. ValueError where it has none."""
        self._answer = _plain(answer_of(row))

    def step(self, text: str) -> tuple[str | None, float, bool]:
        """See the class."""
        called = _CALL.fullmatch(text.strip())
        if called is None:
            return None, float(_plain(text) == self._answer), True
        return "\n".join(self._index.best(called[1], self._passages)) or "nothing found", 0.0, False


class Index:
    """Passages ranked by BM25 (Robertson and Zaragoza 2009, eq. 3.15), k1 1.2, b 0.75."""

    def __init__(self, passages: list[str]) -> None:
        self._passages, self._counts = passages, [Counter(_words(one)) for one in passages]
        self._mean = sum(count.total() for count in self._counts) / max(1, len(passages))
        self._in = Counter(word for count in self._counts for word in count)

    def best(self, question: str, most: int) -> list[str]:
        """Those that share a word with the question, at most so many; of equal ones the first comes first."""
        words = sorted(set(_words(question)))
        scores = [self._score(words, count) for count in self._counts]
        ranked = sorted(range(len(scores)), key=lambda place: -scores[place])
        return [self._passages[place] for place in ranked[:most] if scores[place] > 0]

    def _score(self, words: list[str], count: Counter[str]) -> float:
        long = _K1 * (1 - _B + _B * count.total() / self._mean) if self._mean else 1.0
        return sum(self._rarity(word) * count[word] * (_K1 + 1) / (count[word] + long) for word in words)

    def _rarity(self, word: str) -> float:
        """The inverse document frequency, above 0 for a word of all passages too."""
        having = self._in[word]
        return math.log(1 + (len(self._passages) - having + 0.5) / (having + 0.5))


@cache
def _index_of(path: str) -> Index:
    """One a file and process: an environment is made for every sample."""
    return Index([line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
