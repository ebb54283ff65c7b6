"""Rules on what is measured on held-out rows, and by what of it a run is chosen and ended."""

from __future__ import annotations

from collections.abc import Iterator

from distft.config.problem import Problem
from distft.config.recipe import Recipe


def evaluation_rules(recipe: Recipe) -> Iterator[Problem]:
    """Metrics of answers need answers; a choice needs something to choose by."""
    evaluation, data = recipe.evaluation, recipe.data
    if evaluation.metrics and not recipe.algorithm.traits.answers:
        yield Problem.at(
            "evaluation.metrics", f"{recipe.algorithm.name} trains no model that answers prompts", "remove it"
        )
    if evaluation.metrics and not (data.eval or data.test or data.holdout):
        yield Problem.at(
            "evaluation.metrics", "there are no rows to evaluate on", "add data.eval, or data.holdout: 0.05"
        )
    if evaluation.general is not None and not recipe.algorithm.traits.answers:
        what = f"{recipe.algorithm.name} trains no model that continues text"
        yield Problem.at("evaluation.general", what, "remove it")
    if evaluation.patience and evaluation.best is None:
        yield Problem.at("evaluation.patience", "has no metric to go by", "for example evaluation.best: loss")
    if evaluation.best is None:
        return
    if not evaluation.every:
        yield Problem.at("evaluation.best", "nothing is evaluated before the end", "for example evaluation.every: 50")
    wanted = evaluation.best.removeprefix("val/")
    if evaluation.best.startswith("val/") and wanted not in evaluation.metrics:
        yield Problem.at("evaluation.best", f"{wanted} is not measured", f"evaluation.metrics: [{wanted}]")
