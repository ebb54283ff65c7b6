"""What ``distft eval`` prints."""

from __future__ import annotations

from distft.evaluation.bootstrap import Estimate
from distft.launch.evaluation_report import Report
from distft.launch.tasks import TaskEstimate
from distft.verbs.eval_table import tables


def test_without_a_standard_error_there_is_no_interval() -> None:
    figures: dict[str, Estimate] = {
        "read/bits_per_byte": TaskEstimate.of(1.5, float("nan")), "chosen/acc": TaskEstimate.of(0.5, 0.1),
        "perplexity": Estimate(7.0, 6.0, float("inf")),
    }  # fmt: skip
    report = Report(
        unit="questions", num_rows=9, num_rows_in_all=9, metrics=[("one", figures)], by_source={}, against=[],
        notes=[], intervals="lm-eval's standard errors",
    )  # fmt: skip
    assert [line.split(maxsplit=1) for line in list(tables(report))[3:]] == [
        ["read/bits_per_byte", "1.5"], ["chosen/acc", "0.5 [0.304, 0.696]"], ["perplexity", "7 [6, inf]"],
    ]  # fmt: skip
