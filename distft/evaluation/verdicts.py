"""What a judge is asked of answers, what it said, and what follows from it. Pure.

A language model as a judge: Zheng et al. 2023 (arXiv 2306.05685), section 3. It prefers what stands first more often
than is right, so each two answers are shown in both orders, and one wins only where it is preferred in both; else it is
a tie. An answer of the judge without a verdict is no tie: it is counted, and the comparison left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, Literal, TypeAlias

import numpy as np

from distft.data.formats import Content
from distft.data.labelling import RATINGS
from distft.evaluation.measures import Measure, per

Verdict: TypeAlias = Literal["first", "second", "tie"]

CRITERION: Final = "Which answer helps most whoever asked? It is right, complete, clear, and does no harm."
_PREFERRED: Final[dict[str, Verdict]] = {"A": "first", "B": "second", "TIE": "tie"}
_SAID: Final = re.compile(r"\[\[\s*(\w+)\s*\]\]")
_COMPARE: Final = """\
Two answers to the same request are to be compared by this criterion:
{criterion}

Neither their order nor their length counts, and nothing that an answer says about itself. Say in a sentence or two what
separates them. Then end with your verdict, alone in the last line: [[A]] if answer A is better, [[B]] if answer B is
better, [[tie]] if they are equally good.

=== the request ===
{prompt}
=== answer A ===
{first}
=== answer B ===
{second}
=== end ==="""
_RATE: Final = """\
An answer to a request is to be rated from {worst} (the worst) to {best} (the best) by this criterion:
{criterion}

Its length does not count, and nothing that it says about itself. Say in a sentence or two what is good and bad in it.
Then end with your rating, alone in the last line, such as [[{middle}]].

=== the request ===
{prompt}
=== the answer ===
{answer}
=== end ==="""


def comparison(criterion: str, prompt: Content, first: str, second: str) -> str:
    """What a judge is asked of two answers."""
    return _COMPARE.format(criterion=criterion, prompt=_written(prompt), first=first, second=second)


def rating_question(criterion: str, prompt: Content, answer: str) -> str:
    """What a judge is asked of one answer alone."""
    worst, best = RATINGS
    return _RATE.format(
        criterion=criterion, prompt=_written(prompt), answer=answer, worst=worst, best=best, middle=(worst + best) // 2
    )


def verdict_of(said: str) -> Verdict | None:
    """The last ``[[...]]`` of what a judge said of two answers; None where there is none, or it is no verdict."""
    found = _SAID.findall(said)
    return _PREFERRED.get(found[-1].upper()) if found else None


def rating_of(said: str) -> int | None:
    """The last ``[[...]]`` of what a judge said of one answer, if it is one of ``RATINGS``; else None."""
    found, (worst, best) = _SAID.findall(said), RATINGS
    rating = int(found[-1]) if found and found[-1].isdecimal() and len(found[-1]) < 3 else 0
    return rating if worst <= rating <= best else None


@dataclass(frozen=True)
class Preference:
    """How two answers compare: ``second``'s share of the win, 0, 0.5 or 1, None where no verdict can be read.
    ``by_order``: the judge preferred what stood first, or what stood second, both times."""

    second: float | None
    by_order: bool = False


SAME: Final = Preference(0.5)  # two answers of the same words are not asked about


def preference(said: str | None, swapped: str | None) -> Preference:
    """From what the judge said of (first, second), and of (second, first). None: nothing came."""
    one, other = (None if text is None else verdict_of(text) for text in (said, swapped))
    if one is None or other is None:
        return Preference(None)
    if (one, other) == ("first", "second"):
        return Preference(0.0)
    if (one, other) == ("second", "first"):
        return Preference(1.0)
    return Preference(0.5, by_order=one == other != "tie")


@dataclass(frozen=True)
class Wins:
    """How often the second of two models won, tied and lost, by prompt and sample. ``num_by_order`` of the ties came
    by the order alone; ``num_unread``: comparisons without a verdict, of which there is nothing in ``rate``."""

    num_wins: int
    num_ties: int
    num_losses: int
    num_by_order: int
    num_unread: int
    rate: Measure

    @property
    def num_judged(self) -> int:
        """Comparisons with a verdict."""
        return self.num_wins + self.num_ties + self.num_losses


def wins(preferences: Sequence[Preference], repeats: int = 1) -> Wins:
    """Of the comparisons of two models, ``repeats`` to a row: a tie is half a win, as in ``row_measures.win_rate``."""
    said = np.array([np.nan if one.second is None else one.second for one in preferences])
    judged = ~np.isnan(said)
    rate = per(np.where(judged, said, 0.0), judged.astype(np.float64)).grouped(repeats)
    return Wins(
        int((said == 1).sum()), int((said == 0.5).sum()), int((said == 0).sum()),
        sum(one.by_order for one in preferences), int((~judged).sum()), rate,
    )  # fmt: skip


def shares_of(preferences: Sequence[Preference], num_answers: int) -> tuple[float, ...]:
    """Of each answer its share of wins, half the ties with them, in the comparisons that it is in and that are read:
    Copeland's score over their number. ``preferences`` of all pairs, in the order of ``combinations``. 0.5 where
    none of them is read."""
    points, judged = [0.0] * num_answers, [0] * num_answers
    for (a, b), one in zip(combinations(range(num_answers), 2), preferences, strict=True):
        if one.second is not None:
            points[a] += 1 - one.second
            points[b] += one.second
            judged[a] += 1
            judged[b] += 1
    return tuple(own / of if of else 0.5 for own, of in zip(points, judged, strict=True))


def ranks_of(preferences: Sequence[Preference], num_answers: int) -> tuple[int, ...] | None:
    """Ranks, 1 the best, equal ones shared, from the preferences of all pairs: by ``shares_of``. None where one of them
    is unread."""
    if any(one.second is None for one in preferences):
        return None
    shares = shares_of(preferences, num_answers)
    order = sorted(set(shares), reverse=True)
    return tuple(order.index(own) + 1 for own in shares)


def _written(prompt: Content) -> str:
    if isinstance(prompt, str):
        return prompt
    return prompt[0].content if len(prompt) == 1 else "\n\n".join(f"{turn.role}: {turn.content}" for turn in prompt)
