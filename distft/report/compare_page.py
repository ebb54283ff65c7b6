"""Several runs as one page."""

from __future__ import annotations

from distft.evaluation.bootstrap import LEVEL
from distft.report.charts import Source, charts
from distft.report.comparison import Compared
from distft.report.page import render
from distft.report.verdict import verdict
from distft.tracking.glossary import KNOWN


def compare_page(found: Compared) -> bytes:
    """The page: their verdicts, what differs in the recipes, where they ended, and their curves over each other."""
    first, others = charts([Source(label, run.ledger) for label, run in found.runs.items()])
    return render(
        "compare.html",
        title=" and ".join(found.runs) if len(found.runs) < 4 else f"{len(found.runs)} runs",
        found=found,
        level=f"{LEVEL:.0%}",
        verdicts={label: verdict(run) for label, run in found.runs.items()},
        titles={name: known.title for name, known in KNOWN.items()},
        first=first,
        others=others,
    )
