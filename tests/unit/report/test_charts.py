"""What the charts of a page are given."""

from __future__ import annotations

import pytest

from distft.report.charts import Source, charts
from distft.report.run_data import read_run
from tests.unit.report.conftest import STEPS, MakeRun


def test_bytes_are_drawn_in_mib(make_run: MakeRun) -> None:
    _, others = charts([Source("", read_run(make_run()).ledger)])
    [memory] = [chart for chart in others if chart["name"] == "memory/policy/reserved_peak"]
    assert memory["title"].startswith("MiB: of processes")
    assert memory["series"][0]["y"] == pytest.approx([1024] * STEPS)
    [share] = [chart for chart in others if chart["name"] == "timing/idle_share"]
    assert (memory["share"], share["share"]) == (False, True)
    assert (share["title"], share["series"][0]["y"]) == ("Share of a step outside of all phases", [0.2] * STEPS)
