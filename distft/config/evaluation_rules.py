"""Rules on what is measured on held-out rows, and by what of it a run is chosen and ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from distft.common.errors import nearest
from distft.config.problem import Problem
from distft.config.recipe import Recipe
from distft.config.roles import is_rl
from distft.config.training import AnswerMetric

GENERAL_LOSS = "general_loss"
_OF_A_SOURCE = "loss_by_source/"


def evaluation_rules(recipe: Recipe) -> Iterator[Problem]:
    """Metrics of answers need answers; a choice needs something to choose by."""
    evaluation, data = recipe.evaluation, recipe.data
    if evaluation.metrics and not recipe.algorithm.traits.answers:
        yield Problem.at(
            "evaluation.metrics", f"{recipe.algorithm.name} trains no model that answers prompts", "remove it"
        )
    for key in ("metrics", "general"):
        if getattr(evaluation, key) and not (data.eval or data.test or data.holdout):
            what = "there are no rows to evaluate on"
            yield Problem.at(f"evaluation.{key}", what, "add data.eval, or data.holdout: 0.05")
    if evaluation.general is not None and not recipe.algorithm.traits.answers:
        what = f"{recipe.algorithm.name} trains no model that continues text"
        yield Problem.at("evaluation.general", what, "remove it")
    if evaluation.patience and evaluation.best is None:
        yield Problem.at("evaluation.patience", "has no metric to go by", example_of_best(recipe))
    if evaluation.best is None:
        return
    if not evaluation.every:
        yield Problem.at("evaluation.best", "nothing is evaluated before the end", "for example evaluation.every: 50")
    if evaluation.best.startswith(_OF_A_SOURCE) and (data.eval or data.holdout):
        yield from _known_source(evaluation.best.removeprefix(_OF_A_SOURCE), data.told_apart("eval"))
    wanted = evaluation.best.removeprefix("val/")
    measured = [*evaluation.metrics, *([GENERAL_LOSS] if evaluation.general is not None else [])]
    if evaluation.best.startswith("val/") and wanted not in measured:
        yield Problem.at("evaluation.best", f"{wanted} is not measured", _measured_by(wanted, recipe))


def _known_source(name: str, names: Sequence[str]) -> Iterator[Problem]:
    if not names:
        what = "has nothing to tell apart: the held-out rows are of one source"
        yield Problem.at("evaluation.best", what, "evaluation.best: loss")
    elif name not in names:
        close = nearest(name, names)
        hint = f"did you mean {_OF_A_SOURCE}{close}?" if close else f"one of: {', '.join(names)}"
        yield Problem.at("evaluation.best", f"no held-out source is called {name}", hint)


def example_of_best(recipe: Recipe) -> str:
    """A metric that the held-out rows of this recipe have."""
    return f"for example evaluation.best: {'objective/score' if is_rl(recipe) else 'loss'}"


def _measured_by(wanted: str, recipe: Recipe) -> str:
    """What makes it measured, or the nearest that can be."""
    if not recipe.algorithm.traits.answers:
        return example_of_best(recipe)
    if wanted == GENERAL_LOSS:
        return "evaluation.general: builtin"
    known = get_args(AnswerMetric)
    if wanted in known:
        return f"evaluation.metrics: [{', '.join([*recipe.evaluation.metrics, wanted])}]"
    close = nearest(wanted, [*known, GENERAL_LOSS])
    return f"did you mean val/{close}?" if close else example_of_best(recipe)
