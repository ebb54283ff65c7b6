"""The pages of runs in a real browser, as on a phone and on a desk: nothing is wrong on the console, nothing is asked
for, every chart is drawn, nothing is wider than the window. The screenshots stay in the folder of the test."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from distft.cli import main
from tests.e2e.conftest import SFT, Start, checkpoints, dpo, events, lines, ppo
from tests.harness.browser import BROWSER, look

pytestmark = [
    pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here to open pages with"),
]  # fmt: skip
WIDTHS = (390, 1440)
LARGEST = 3_000_000
ONE_EACH = tuple(f"placement.{role}.ranks=1" for role in ("reference", "reward", "value"))


def assert_in_order(page: Path, name: str, folder: Path, *, charts: int = 0) -> None:
    assert page.stat().st_size < LARGEST
    for width in WIDTHS:
        seen = look(page, width, folder, f"{name}-{width}")
        assert [line for line in seen.console if "document idle at" not in line] == []  # what BokehJS says when done
        assert seen.asked == []
        assert seen.charts >= charts
        assert seen.empty == [], f"{name} at {width}"
        assert seen.needs <= seen.width == width, f"{name} at {width}"


def test_pages_on_a_phone_and_on_a_desk(sft: Path, start: Start, tmp_path: Path) -> None:
    looked = tmp_path / "looked"
    assert_in_order(sft / "report.html", "sft", looked, charts=8)
    for name, words in (("dpo", dpo(sft)), ("ppo", ppo(sft, *ONE_EACH))):
        verb = start(*words, folder=name)
        assert verb.end() == 0, verb.output
        assert_in_order(verb.folder / "report.html", name, looked, charts=8)

    words = (*SFT, "train.steps=30")
    crashed = start(*words, folder="crashed")
    crashed.wait_for(lambda: 2 in checkpoints(crashed.folder), "checkpoint 2")
    os.kill(crashed.pid("policy", 1), signal.SIGKILL)
    assert crashed.end() == 1, crashed.output
    assert_in_order(crashed.folder / "report.html", "crashed", looked, charts=8)
    verb = start(*words, folder="crashed")
    assert verb.end() == 0, verb.output
    assert events(verb.folder, "resume")
    assert len(lines(verb.folder, "metrics")) > 30
    assert_in_order(verb.folder / "report.html", "resumed", looked, charts=8)

    assert main(["data", "dpo-tiny", "--html", str(tmp_path / "data.html")]) == 0
    assert_in_order(tmp_path / "data.html", "data", looked)
    words = ("collect", f"run:{sft}", "--prompts", "builtin:dialogues", "--limit", "3", "max_new_tokens=12")
    assert main([*words, "--ask", "rank,rate,correct", "--output", str(tmp_path / "labelling")]) == 0
    assert_in_order(tmp_path / "labelling" / "label.html", "label", looked)


FLAT = {"perf/idle_fraction": 0.0, "rewards/accuracies": 0.75, "loss": 0.5, "grad_norm": 0.0, "logps/chosen": -8.0}
NEARLY = {"perf/padding_fraction": (0.0, 0.1), "perf/busy/policy": (0.2, 1.0), "learning_rate": (0.0, 1.0)}


def test_axes_of_flat_curves_and_of_shares(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "events.jsonl").write_text('{"event": "start", "time": 1}\n')
    steps = [{"step": one, "split": "train", **FLAT, **{k: v[one - 1] for k, v in NEARLY.items()}} for one in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in steps))
    assert main(["report", str(run)]) == 0
    levels = look(run / "report.html", 1440, tmp_path / "looked", "flat").levels
    for name in ("perf/idle_fraction", "rewards/accuracies", "grad_norm"):
        assert levels[name] == pytest.approx([-0.04, 1.04]), name
    assert levels["loss"] == pytest.approx([0.25, 0.75])
    assert levels["logps/chosen"] == pytest.approx([-12, -4])
    assert levels["perf/padding_fraction"] == pytest.approx([-0.004, 0.105])
    assert levels["perf/busy/policy"] == pytest.approx([0.16, 1.032])
    assert levels["learning_rate"] == pytest.approx([-0.05, 1.05]), "Bokeh's own"


def test_what_is_wrong_with_a_page_is_seen(tmp_path: Path) -> None:
    """Else nothing on the console, no request and no empty chart would say little."""
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><body style="width: 3000px"><script>console.error("planted")</script>'
        '<img src="http://planted.example/x.png"><div data-chart="none"></div></body>'
    )
    seen = look(page, 390, tmp_path / "looked", "bad")
    assert any("planted" in line for line in seen.console)
    assert seen.asked == ["http://planted.example/x.png"]
    assert (seen.charts, seen.empty) == (1, ["none"])
    assert seen.needs > seen.width == 390
