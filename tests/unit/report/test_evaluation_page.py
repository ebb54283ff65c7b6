"""The page of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.common.files import write_json
from distft.report.evaluation_page import evaluation_page
from distft.tracking.metrics import EVALUATION


@pytest.mark.parametrize(
    ("metric", "cell"),
    [
        ("val/f1", "<td>F1 of words <code>val/f1</code></td>"),
        ("toxicity/mean", "<td>Toxicity of the answers <code>toxicity/mean</code></td>"),
        ("toxicity/share", "<td>Share of toxic answers <code>toxicity/share</code></td>"),
        ("new/metric", "<td><code>new/metric</code></td>"),
    ],
)
def test_a_metric_has_its_title(metric: str, cell: str, tmp_path: Path) -> None:
    figure = {"value": 0.25, "low": 0.125, "high": 0.5}
    found = {
        "unit": "answers", "rows": 4, "rows_in_all": 4, "level": 0.95, "by_source": {}, "comparisons": [], "notes": [],
        "prompting": None, "models": [{"name": "m", "metrics": {metric: figure}}],
    }  # fmt: skip
    write_json(tmp_path / EVALUATION, {"found": found, "asked": {"eval": ["m"]}})
    assert cell in evaluation_page(tmp_path).decode()
