"""What ``distft eval`` found: metrics with intervals, by source, and models against the first of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from distft.data.wanted import wanted_answer
from distft.evaluation.bootstrap import LEVEL, Difference, Estimate, compare, estimate
from distft.evaluation.measures import Measure
from distft.evaluation.row_measures import win_rate
from distft.evaluation.verdicts import Wins
from distft.launch.correctness import CORRECT
from distft.launch.judging import Judged

FORMAT = 1


@dataclass(frozen=True)
class Against:
    """A model's metrics minus the first's; ``win_rate``: how often a reward model prefers its answer; ``judge``: how
    often a judge does."""

    name: str
    differences: Mapping[str, Difference]
    win_rate: Estimate | None
    judge: JudgedWins | None = None


@dataclass(frozen=True)
class JudgedWins:
    """By a judge: ``win_rate`` of the comparisons with a verdict (a tie is half a win), and how many there were of each
    kind; ``by_order`` are ties, too, and ``unread`` are in no figure."""

    win_rate: Estimate
    wins: int
    ties: int
    losses: int
    by_order: int
    unread: int

    @classmethod
    def of(cls, found: Wins) -> JudgedWins:
        """With the interval."""
        return cls(
            estimate(found.rate), found.num_wins, found.num_ties, found.num_losses, found.num_by_order, found.num_unread
        )


@dataclass(frozen=True)
class Prompting:
    """Whether prompting would have been enough: by how much ``metric`` of the ``trained`` model is above that of the
    untouched one with the exemplars that help it most, ``best``, on the same rows."""

    metric: str
    trained: str
    best: str
    difference: Difference

    @property
    def verdict(self) -> str:
        """In a sentence; a difference whose interval holds zero decides nothing."""
        found, than = self.difference, f"{self.trained} against {self.best}, by {self.metric}"
        said = f"{found.value:+.4g} [{found.low:+.4g}, {found.high:+.4g}]"
        if found.low > 0:
            return f"prompting would not have been enough: {said} ({than})"
        if found.high < 0:
            return f"prompting alone is better: {said} ({than})"
        return f"prompting may have been enough: {said} holds zero ({than})"


@dataclass(frozen=True)
class Report:
    """``metrics`` and ``by_source`` by model's name, in the order of the models; ``unit`` of ``num_rows``;
    ``intervals``: what they are by."""

    unit: str
    num_rows: int
    num_rows_in_all: int
    metrics: Sequence[tuple[str, Mapping[str, Estimate]]]
    by_source: Mapping[str, Sequence[tuple[str, Mapping[str, Estimate]]]]
    against: Sequence[Against]
    notes: Sequence[str]
    prompting: Prompting | None = None
    intervals: str = "bootstrap over rows"

    def as_json(self) -> dict[str, object]:
        """For scripts."""
        return {
            "format": FORMAT,
            "unit": self.unit,
            "rows": self.num_rows,
            "rows_in_all": self.num_rows_in_all,
            "level": LEVEL,
            "intervals": self.intervals,
            "models": [{"name": name, "metrics": _plain(metrics)} for name, metrics in self.metrics],
            "by_source": {
                source: [{"name": name, "metrics": _plain(metrics)} for name, metrics in found]
                for source, found in self.by_source.items()
            },
            "comparisons": [
                {
                    "first": self.metrics[0][0],
                    "second": one.name,
                    "differences": _plain(one.differences),
                    "win_rate": None if one.win_rate is None else asdict(one.win_rate),
                    "judge": None if one.judge is None else asdict(one.judge),
                }
                for one in self.against
            ],
            "prompting": self.prompting and {**asdict(self.prompting), "verdict": self.prompting.verdict},
            "notes": list(self.notes),
        }


def report(judged: Sequence[Judged]) -> Report:
    """The figures of models that were judged on the same rows. A model that read others of them, because its tokenizer
    makes some too long, is not compared, and noted."""
    first, notes = judged[0], [note for one in judged for note in one.notes]
    against = []
    for one in judged[1:]:
        if one.rows.places == first.rows.places and one.repeats == first.repeats:
            against.append(_against(first, one))
        else:
            notes.append(f"{one.name} is not compared with {first.name}: it could not read the same rows")
    sources = list(dict.fromkeys(first.rows.sources))
    return Report(
        unit=first.rows.unit,
        num_rows=len(first.rows.units),
        num_rows_in_all=first.rows.dataset.num_units,
        metrics=[(one.name, _estimates(one.measures)) for one in judged],
        by_source={
            source: [(one.name, _estimates(_within(one, source))) for one in judged] for source in sources
        } if len(sources) > 1 else {},
        against=against,
        notes=notes,
        prompting=_prompting(judged),
    )  # fmt: skip


_SHORT_ANSWER = 3  # words up to which an answer is right or wrong as a whole


def _prompting(judged: Sequence[Judged]) -> Prompting | None:
    trained = next((one for one in judged if one.recipe is not None), None)
    shown = [one for one in judged if one.shots is not None and trained and one.rows.places == trained.rows.places]
    if trained is None or not shown:
        return None
    by_criterion = [name for name in trained.measures if name == CORRECT or name.startswith("mean@")]
    lengths = [len((wanted_answer(example) or "").split()) for example in trained.rows.examples]
    by_length = "exact_match" if np.mean(lengths) <= _SHORT_ANSWER else "rougeL"
    metric = next(iter(by_criterion), by_length)
    if metric not in trained.measures:
        return None
    best = max(shown, key=lambda one: one.measures[metric].total)
    difference = compare(best.measures[metric], trained.measures[metric])
    return Prompting(metric, trained.name, best.name, difference)


def _within(judged: Judged, source: str) -> dict[str, Measure]:
    chosen = np.flatnonzero(np.array(judged.rows.sources) == source)
    return {name: measure.of(chosen) for name, measure in judged.measures.items()}


def _estimates(measures: Mapping[str, Measure]) -> dict[str, Estimate]:
    return {name: estimate(measure) for name, measure in measures.items() if len(measure.rows)}


def _against(first: Judged, second: Judged) -> Against:
    shared = [name for name in first.measures if name in second.measures]
    wins = None
    if first.scores is not None and second.scores is not None:
        wins = estimate(win_rate(first.scores, second.scores, first.repeats))
    differences = {n: compare(first.measures[n], second.measures[n]) for n in shared}
    return Against(second.name, differences, wins, None if second.wins is None else JudgedWins.of(second.wins))


def _plain(found: Mapping[str, Estimate | Difference]) -> dict[str, dict[str, float]]:
    return {name: asdict(one) for name, one in found.items()}
