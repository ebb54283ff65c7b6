"""The page itself: it says what the run holds, loads nothing, and lets nothing in that a run's texts smuggle."""

from __future__ import annotations

import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from distft.report.run_page import REPORT, report_in_passing, write_report
from distft.tracking.metrics import Sample, SamplesLog
from tests.unit.report.conftest import MakeRun

ATTACK = (
    "</script><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>\"'&<!--{{ 7 * 7 }}\u2028\ud800"
)


class Seen(HTMLParser):
    """Every tag with its attributes, and the texts of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts.append(data)
        elif self._in != "style":
            self.text += data


def page(run_dir: Path) -> tuple[str, Seen]:
    text = write_report(run_dir).read_text(encoding="utf-8")
    return text, Seen(text)


def test_it_says_what_the_run_holds(make_run: MakeRun) -> None:
    run_dir = make_run()
    text, seen = page(run_dir)
    assert "Finished 5 steps" in seen.text
    for words in ("score went from 0 to 5 on 96 of 300 test rows", "Yes. 5", "Where the time went", "Environment"):
        assert words in seen.text
    charts = {chart["name"]: chart for chart in json.loads(seen.scripts[0])}
    assert charts["objective/scores"]["series"][0]["y"] == [1, 2, 3, 4, 5]
    drawn = [attributes["data-chart"] for tag, attributes in seen.tags if "data-chart" in attributes]
    assert sorted(drawn) == sorted(charts), "a place for every chart"
    assert len(text) < 1.6e6


def test_nothing_is_loaded(make_run: MakeRun) -> None:
    text, seen = page(make_run())
    for tag, attributes in seen.tags:
        assert not {"src", "href", "srcset", "action", "data", "poster"} & attributes.keys(), f"<{tag}> loads something"
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
    policy = next(a["content"] for _, a in seen.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style
    assert not re.search(r"url\(|@import", style[1])


def test_hostile_texts_stay_texts(make_run: MakeRun) -> None:
    calm, hostile = make_run("calm"), make_run("hostile")
    samples = SamplesLog(hostile, 1)
    samples.write(6, [Sample(ATTACK, ATTACK, 1.0)])
    samples.close()
    with (hostile / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, "split": "train", ATTACK: 1.0}) + "\n")
    with (hostile / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": ATTACK, "event": ATTACK, ATTACK: ATTACK}) + "\n")
    recipe = (hostile / "recipe.yaml").read_text().replace("name: ppo-tiny", f"name: {json.dumps(ATTACK)}", 1)
    (hostile / "recipe.yaml").write_text(recipe.replace("builtin:dialogues", json.dumps(ATTACK)[1:-1]))
    (hostile / "exit.json").write_text(json.dumps({"exit_status": 1, "class": ATTACK, "cause": ATTACK}))
    (_, before), (_, after) = page(calm), page(hostile)
    assert "alert(1)" in after.text, "the attack is in the page, as a text"
    assert {tag for tag, _ in after.tags} <= {*(tag for tag, _ in before.tags), "strong", "pre"}
    assert not any(name.startswith("on") for _, attributes in after.tags for name in attributes)
    assert len(after.scripts) == len(before.scripts) == 3
    assert any("alert(1)" in chart["name"] for chart in json.loads(after.scripts[0])), "a metric's name too"
    assert "{{ 7 * 7 }}" in after.text, "no template is filled in twice"


@pytest.mark.parametrize(
    ("late", "said", "not_said"),
    [
        ((), "There are samples of step 0 alone", "sampled twice"),
        (("b",), "No prompt was sampled twice: the prompts on the two sides differ.", "alone"),
        (("a",), "What it says", "sampled twice"),
    ],
)
def test_samples_of_one_step_are_said_to_be(make_run: MakeRun, late: tuple[str, ...], said: str, not_said: str) -> None:
    run_dir = make_run()
    (run_dir / "samples.jsonl").unlink()
    log = SamplesLog(run_dir, 1)
    log.write(0, [Sample("a", "early")], split="eval")
    log.write(9, [Sample(prompt, "late") for prompt in late], split="eval")
    log.close()
    text, seen = page(run_dir)
    assert said in seen.text
    assert not_said not in seen.text
    [pair] = re.findall(r'<div class="pair">.*', text)
    assert ('<div class="none"></div>' in pair) == (not late), "no empty box"


def test_what_is_not_a_number_is_named(make_run: MakeRun) -> None:
    run_dir = make_run()
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "split": "train", "loss": null, "nonfinite": {"loss": "nan"}}\n')
        file.write('{"step": 7, "split": "train", "loss": Infinity}\n')
    _, seen = page(run_dir)
    assert "Not a number, or infinite, in training: steps 6, 7." in seen.text
    assert "NaN" not in seen.scripts[0]


def test_a_report_that_fails_is_told_and_no_more(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run()
    (run_dir / REPORT).mkdir()  # nothing can be put in its place
    with caplog.at_level(logging.INFO):
        report_in_passing(run_dir)
    assert f"distft report {run_dir} tries again" in caplog.text
