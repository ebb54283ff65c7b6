"""The page of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.common.files import write_json
from distft.report.evaluation_page import evaluation_page
from distft.tracking.metrics import EVALUATION


def test_without_a_standard_error_there_is_no_interval(tmp_path: Path) -> None:
    figures = {"value": 0.25, "low": None, "high": None}, {"value": 0.5, "low": 0.125, "high": None}
    text = page_of(tmp_path, dict(zip(("read/bits_per_byte", "perplexity"), figures, strict=True)))
    assert '<td class="n">0.25</td>' in text
    assert '<td class="n">0.5<br><span class="about">0.125 to no number</span></td>' in text


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
    assert cell in page_of(tmp_path, {metric: {"value": 0.25, "low": 0.125, "high": 0.5}})


def page_of(folder: Path, metrics: dict[str, dict[str, float | None]]) -> str:
    """Of an evaluation of one model."""
    found = {
        "unit": "answers", "rows": 4, "rows_in_all": 4, "level": 0.95, "by_source": {}, "comparisons": [], "notes": [],
        "prompting": None, "models": [{"name": "m", "metrics": metrics}],
    }  # fmt: skip
    write_json(folder / EVALUATION, {"found": found, "asked": {"eval": ["m"]}})
    return evaluation_page(folder).decode()
