"""The results as the tables of tests/benchmarks/README.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def table(lines: Sequence[Mapping[str, Any]], size: Mapping[str, Any]) -> str:
    """Markdown: speed beside the others, and the plan beside the truth."""
    cards = sorted({f"{line['card']}, {line['date']}" for line in lines})
    head = f"{'; '.join(cards)}; {', '.join(f'{name} {value}' for name, value in size.items())}"
    return "\n".join([head, "", *_speed(lines), "", *_plan(lines), ""])


def _speed(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| | s a step | tokens/s | MFU | peak GiB | transfer s |"
    yield "|---|---|---|---|---|---|"
    for line in lines:
        if line["part"] != "plan":
            moved = [value for name, value in line.items() if name.endswith("/transfer")]
            transfer = sum(moved) if "timing/step" in line else None
            cells = (line.get("s_step"), line.get("tokens_s"), line.get("perf/mfu"), line.get("peak_gib"), transfer)
            yield f"| {line['label']} | {' | '.join(_said(cell) for cell in cells)} |"


def _plan(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| setting | plan GiB | true (NVML) | plan / true | plan s | true s |"
    yield "|---|---|---|---|---|---|"
    for line in lines:
        if line["part"] in ("plan", "sleep", "offload"):
            planned, true = line.get("plan_gib"), line.get("peak_gib")
            share = planned / true if planned and true else None
            cells = (planned, true, share, line.get("plan_s_step"), line.get("s_step"))
            yield f"| {line['label']} | {' | '.join(_said(cell) for cell in cells)} |"


def _said(value: float | None) -> str:
    if value is None:
        return "unmeasured"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
