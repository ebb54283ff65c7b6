"""Alarms of what the rows of a run are, before its first step. Pure.

Of rows that judge and rows that are trained on: lengths are another's where the medians differ by more than a factor of
three, as in the alarm of responses that run away; tokens, where a tenth of all that is judged stands nowhere in the
rows trained on, and more than three times what chance explains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from distft.tracking.alarms import Alarm

_LENGTH_TIMES: Final = 3.0
_UNSEEN, _UNSEEN_TIMES = 0.1, 3.0


@dataclass(frozen=True)
class Drift:
    """``lengths``: the median length in tokens of what is trained on, and of what judges. ``unseen``: of the tokens
    that judge the share that training has nowhere; ``expected``: that share of a row of training, were the others all
    that there is."""

    lengths: tuple[float, float]
    unseen: float
    expected: float


def data_alarms(
    leaked: Mapping[str, int], alike: Mapping[str, tuple[int, str, str]], drifts: Mapping[str, Drift], *, stay: bool
) -> Iterator[Alarm]:
    """Those that the rows raise; see ``leakage``, ``near_leakage``, ``drifted``."""
    if leaked:
        yield leakage(leaked, stay=stay)
    if alike:
        yield near_leakage(alike)
    yield from drifted(drifts)


def leakage(leaked: Mapping[str, int], *, stay: bool) -> Alarm:
    """Rows of lists that ask what rows ask which judge, by list. ``stay``: they are trained on all the same."""
    counted = " and ".join(f"{count:,} rows of data.{name}" for name, count in leaked.items())
    what = "stay in it: held-out metrics flatter" if stay else "are left out"
    return Alarm(
        "leakage", f"{counted} ask what held-out rows ask, or hold one with its answer, and {what}",
        "data.on_leak=fail names the first of them; take them out where they come from",
    )  # fmt: skip


def near_leakage(alike: Mapping[str, tuple[int, str, str]]) -> Alarm:
    """Rows of lists that are nearly the same as rows that judge, by list: how many, where the first stands, and where
    its like. They stay: it is for a person to say whether they give anything away."""
    counted = " and ".join(
        f"{count:,} rows of data.{name} (the first {first}, like {judged})"
        for name, (count, first, judged) in alike.items()
    )
    return Alarm(
        "near leakage", f"{counted} hold at least half of a held-out row word for word: held-out metrics may flatter",
        "read the two; take one out of each such pair, or hold out by topic or source in place of by row",
    )  # fmt: skip


def drifted(drifts: Mapping[str, Drift]) -> Iterator[Alarm]:
    """Of lists that judge something else than what is trained on, by list: an alarm for all of them."""
    said = [text for name, drift in drifts.items() for text in _apart(name, drift)]
    if said:
        yield Alarm(
            "train and eval differ", "; ".join(said),
            "held-out metrics say little of what is trained: look at both with distft data; give data.eval and "
            "data.test rows of the same sources, or data.holdout=0.05 in their place",
        )  # fmt: skip


def _apart(name: str, drift: Drift) -> Iterator[str]:
    own, theirs = drift.lengths
    if not 1 / _LENGTH_TIMES <= theirs / max(own, 1) <= _LENGTH_TIMES:
        yield f"rows of data.{name} have {theirs:,.0f} tokens in the median, those of data.train {own:,.0f}"
    if drift.unseen > max(_UNSEEN, _UNSEEN_TIMES * drift.expected):
        yield (
            f"{drift.unseen:.0%} of the tokens of data.{name} stand nowhere in data.train "
            f"({drift.expected:.0%} are to be expected of rows of its kind)"
        )
