"""What ``distft eval`` shows to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isnan

from distft.evaluation.bootstrap import LEVEL, Difference, Estimate
from distft.launch.evaluation_report import Against, Report


def tables(report: Report) -> Iterator[str]:
    """The lines: all rows, each source, and what separates the models."""
    of = f" of {report.num_rows_in_all}" if report.num_rows_in_all != report.num_rows else ""
    yield f"{report.num_rows}{of} {report.unit}; in brackets intervals of {LEVEL:.0%} ({report.intervals})"
    yield ""
    yield from _table(report.metrics)
    for source, metrics in report.by_source.items():
        yield from ("", source, *_table(metrics))
    for one in report.against:
        yield from ("", f"{one.name}, compared with {report.metrics[0][0]} row by row", *_compared(one))
    yield from _said(report)


def _said(report: Report) -> Iterator[str]:
    if report.prompting is not None:
        yield from ("", report.prompting.verdict)


def _table(metrics: Sequence[tuple[str, Mapping[str, Estimate]]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for _, found in metrics for name in found))
    rows = [["metric", *(model for model, _ in metrics)]]
    rows += [[name, *(_shown(found[name]) if name in found else "" for _, found in metrics)] for name in names]
    yield from _aligned(rows)


def _compared(one: Against) -> Iterator[str]:
    rows = [["metric", "difference", "p"]]
    rows += [[name, _shown(found), f"{found.p:.3f}"] for name, found in one.differences.items()]
    yield from _aligned(rows)
    if one.win_rate is not None:
        yield f"its answer is preferred by the reward model in {_shown(one.win_rate)} of the rows (a tie is half)"
    if one.judge is not None:
        found = one.judge
        yield f"its answer is preferred by the judge in {_shown(found.win_rate)} of the comparisons (a tie is half):"
        yield (
            f"  {found.wins} won, {found.ties} tied ({found.by_order} of them by their order alone), {found.losses} "
            f"lost; {found.unread} without a verdict, in no figure"
        )


def _shown(found: Estimate | Difference) -> str:
    sign = "+" if isinstance(found, Difference) else ""
    between = "" if isnan(found.low) and isnan(found.high) else f" [{found.low:{sign}.4g}, {found.high:{sign}.4g}]"
    return f"{found.value:{sign}.4g}{between}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
