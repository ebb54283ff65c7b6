"""How ``distft eval`` judges models, and what it found of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from distft.config.recipe import Recipe
from distft.evaluation.measures import Measure
from distft.evaluation.verdicts import Wins
from distft.launch.correctness import Criterion
from distft.launch.judged_rows import JudgedRows, Wanted
from distft.launch.judges import JudgeNamed
from distft.launch.named_models import Reading
from distft.launch.toxicity import ToxicityNamed


@dataclass(frozen=True)
class Judging:
    """How models are judged. ``answers``: whether they write some themselves; they take the likeliest token each time,
    unless ``sampling`` says otherwise (``key=value``), or the recipe's method learns from samples. ``criterion``: which
    are right; ``shots``: so many exemplars, of the files ``shots_from`` or the recipe's train list, are put before the
    prompts of the untouched model; ``judge``: who says which of two models' answers is better;
    ``toxicity``: the classifier that the answers are read by."""

    wanted: Wanted
    reading: Reading
    sampling: tuple[str, ...] = ()
    answers: bool = True
    reference: str | None = None
    reward: str | None = None
    criterion: Criterion | None = None
    shots: tuple[int, ...] = ()
    shots_from: tuple[str, ...] = ()
    judge: JudgeNamed | None = None
    toxicity: ToxicityNamed | None = None


@dataclass(frozen=True)
class Judged:
    """What a model made of the rows. ``scores``: of its own ``answers``, ``repeats`` a row. ``shots``: of the untouched
    model with so many exemplars; ``recipe``: of the run that made it, if one did. ``wins``: against the first
    model, by a judge."""

    name: str
    rows: JudgedRows
    measures: dict[str, Measure]
    scores: npt.NDArray[np.float64] | None = None
    repeats: int = 1
    notes: list[str] = field(default_factory=list)
    shots: int | None = None
    recipe: Recipe | None = field(default=None, repr=False)
    answers: Sequence[str] | None = None
    wins: Wins | None = None
