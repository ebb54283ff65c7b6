"""Runs side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from distft.cli import main
from distft.report.comparison import compare_runs
from distft.tracking.metrics import MetricRecord, MetricsLog
from tests.unit.report.conftest import MakeRun


def edited(run_dir: Path, before: str, after: str) -> Path:
    text = (run_dir / "recipe.yaml").read_text()
    assert before in text
    (run_dir / "recipe.yaml").write_text(text.replace(before, after, 1))
    return run_dir


def test_only_what_differs_in_the_recipes(make_run: MakeRun) -> None:
    first, second = make_run("a"), edited(make_run("b"), "seed: 1", "seed: 2")
    edited(second, "name: ppo-tiny", "name: other")
    assert compare_runs([first, second]).differences == {"seed": {"a": 1, "b": 2}}


def test_final_values_with_the_interval_of_the_last_fifth(make_run: MakeRun) -> None:
    run_dir, other = make_run("a"), make_run("b")
    (run_dir / "metrics.jsonl").unlink()
    log = MetricsLog(run_dir, None)
    values = np.random.default_rng(1).normal(size=100)
    for step, value in enumerate(values, 1):
        log.write(MetricRecord(step, "train", {"loss": float("nan") if step == 99 else float(value)}))
    log.close()
    last = np.delete(values[-20:], 18)  # step 99 is no number
    found = compare_runs([run_dir, other]).training["loss"]
    assert found["a"].value == pytest.approx(last.mean())
    deviation = last.std() / np.sqrt(len(last))
    assert (found["a"].low, found["a"].high) == (
        pytest.approx(last.mean() - 1.96 * deviation, abs=0.3 * deviation),
        pytest.approx(last.mean() + 1.96 * deviation, abs=0.3 * deviation),
    )
    assert found["b"].low == found["b"].high == found["b"].value == 0.5


def test_labels_tell_runs_of_one_name_apart(make_run: MakeRun, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        shutil.move(make_run(), tmp_path / folder / "run")
    assert list(compare_runs([tmp_path / "x" / "run", tmp_path / "y" / "run"]).runs) == ["x/run", "y/run"]
    same = [tmp_path / "x" / "run"] * 2
    assert [label.rpartition(" ")[2] for label in compare_runs(same).runs] == ["(1)", "(2)"]


def test_what_the_verb_says(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people, for scripts, and as a page with a curve of each run in a chart."""
    first, second = make_run("a"), edited(make_run("b", ending=None), "seed: 1", "seed: 2")
    page = tmp_path / "page.html"
    assert main(["compare", str(first), str(second), "--html", str(page)]) == 0
    told = capsys.readouterr().out
    assert "b: Ended without a word after 5 steps" in told
    assert any(line.split() == ["seed", "1", "2"] for line in told.splitlines())
    assert main(["compare", str(first), str(second), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["held_out"]["objective/score"]["b"] == {"before": 0.0, "after": 5.0}
    assert found["runs"]["b"]["state"] == "lost"
    text = page.read_text()
    assert "a, training" in text
    assert "b, training" in text


@pytest.mark.parametrize(
    ("runs", "said"),
    [(["a"], "nothing to be compared with"), (["a", "nowhere"], "there is no such folder"),
     (["a", "run:aa"], "did you mean"),
     (["a", "b", "--html", "nowhere/x.html"], "cannot be written")],
)  # fmt: skip
def test_what_cannot_be_compared(
    runs: list[str], said: str, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("b")
    monkeypatch.chdir(make_run("a").parent)
    assert main(["compare", *runs]) == 2
    assert said in capsys.readouterr().err


def test_a_report_of_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "no run lies in this folder" in capsys.readouterr().err
