"""The before/after table that a run ends with."""

from __future__ import annotations

from collections.abc import Mapping

Table = Mapping[str, Mapping[str, float]]

# What an overview of several runs shows; each run's before_after.json has them all.
HEADLINES = (
    "loss", "accuracy", "objective/score", "objective/score_std", "objective/kl", "rewards/accuracies",
    "rewards/margins",
)  # fmt: skip


def headlines(table: Table) -> Table:
    """The metrics of a run that an overview shows."""
    return {metric: values for metric, values in table.items() if metric in HEADLINES}


def before_after(runs: Mapping[str, Table]) -> str:
    """Held-out metrics before and after, a line each; empty where no run measured any."""
    rows = [
        (name if first else "", metric, f"{values['before']:.4g}", f"{values['after']:.4g}")
        for name, table in runs.items()
        for first, (metric, values) in _numbered(table)
    ]
    if not rows:
        return ""
    header = ("run", "held-out metric", "before", "after")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(4)]
    return "\n".join(_line(row, widths) for row in [header, *rows])


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    """Names to the left, numbers to the right."""
    (run, run_width), (metric, metric_width), *numbers = zip(row, widths, strict=True)
    return "  ".join([f"{run:<{run_width}}", f"{metric:<{metric_width}}", *(f"{n:>{width}}" for n, width in numbers)])


def _numbered(table: Table) -> list[tuple[bool, tuple[str, Mapping[str, float]]]]:
    return [(index == 0, item) for index, item in enumerate(table.items())]
