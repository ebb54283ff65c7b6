"""A pipeline's eval stage, and the same by ``distft eval --output``: kept, not done again, and begun anew where it
ended badly or what it judges has changed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from distft.common.sums import write_sums
from distft.config.pipeline import EvalStage, load_pipeline
from distft.tracking.run_status import run_status
from distft.verbs.eval_stage import do_eval_stage
from tests.unit.verbs.conftest import Typed


@pytest.fixture
def pipeline(speaker: str, other_speaker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of one stage, which judges two models that are there."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Question {number}:", "completion": f" Answer {number} is here."} for number in range(4)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("other").symlink_to(other_speaker)
    keys = {"eval": [speaker, "other"], "data": ["rows.jsonl"], "max_new_tokens": 4, "seed": 3}
    Path("mine.yaml").write_text(json.dumps({"name": "mine", "output_dir": "runs", "stages": {"judged": keys}}))
    return tmp_path


def kept(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return found


def test_the_stage_is_the_verb_and_is_done_once(pipeline: Path, distft: Typed) -> None:
    status, output, error = distft("train", "mine.yaml")
    assert status == 0, error
    folder = pipeline / "runs" / "judged"
    command = next(line for line in output.splitlines() if line.startswith("--- judged: distft eval "))
    words = shlex.split(command)[3:]
    assert words[-1] == "--output=runs/judged"
    alone = json.loads(distft(*words[:-1], "--json")[1])
    assert kept(folder)["found"] == alone
    assert (folder / "evaluation.txt").read_text() in output
    page = (folder / "report.html").read_text()
    assert "other, compared with" in page
    assert f"{alone['models'][1]['metrics']['rougeL']['value']:.4g}<br>" in page
    assert not re.search(r"<(script|link|img)|https?://", page), "it loads nothing"
    assert distft("report", folder)[0] == 0
    assert "rougeL" in alone["models"][1]["metrics"]
    assert alone["comparisons"][0]["second"] == "other"

    before = (folder / "evaluation.json").stat().st_mtime_ns
    again = distft("train", "mine.yaml")[1]
    assert "judged: already done" in again
    assert "all stages were finished already" in again
    assert distft(*words)[1].strip() == (folder / "evaluation.txt").read_text().strip(), "typed by hand it is the same"
    assert (folder / "evaluation.json").stat().st_mtime_ns == before
    assert json.loads(distft("train", "mine.yaml", "--json")[1]) == {"judged": alone}
    for line, said in (("--dry-run", "judged: already finished (runs/judged)"), ("--quiet", "already done")):
        assert said in distft("train", "mine.yaml", line)[1]


def test_what_is_asked_or_judged_has_changed(pipeline: Path, speaker: str, distft: Typed) -> None:
    """Other keys, or another model under the same name, are another evaluation."""
    folder = pipeline / "runs" / "judged"
    (pipeline / "other").unlink()
    shutil.copytree(speaker, pipeline / "other")
    write_sums(pipeline / "other")
    assert distft("train", "mine.yaml")[0] == 0
    assert "ready to start" in distft("train", "mine.yaml", "--dry-run", "stages.judged.limit=3")[1]
    assert distft("train", "mine.yaml", "stages.judged.limit=3")[0] == 0
    assert kept(folder)["found"]["rows"] == 3
    (pipeline / "other" / "more.txt").touch()
    write_sums(pipeline / "other")
    assert "judged: ready to start" in distft("train", "mine.yaml", "stages.judged.limit=3", "--dry-run")[1]


def test_what_there_is_to_know_of_it_is_said_by_whoever_does_it(
    pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In an allocation, too, where no one prints the figures."""
    mine = load_pipeline("mine.yaml", ["stages.judged.max_length=14", "stages.judged.no_answers=true"])
    [stage] = mine.stages
    assert isinstance(stage, EvalStage)
    for quiet in (False, True):
        [note] = do_eval_stage(mine, stage, quiet=quiet).figures["notes"]
        assert "were cut" in note
        assert f"distft: warning: {note}\n" in capsys.readouterr().err


def test_one_that_failed_says_so_and_is_begun_anew(pipeline: Path, distft: Typed) -> None:
    broken = pipeline / "broken.py"
    broken.write_text("def right(prompts, completions, **columns):\n    raise ValueError('not today')\n")
    words = ("train", "mine.yaml", "stages.judged.correct=broken:right")
    status, _, error = distft(*words)
    assert status == 2
    assert "not today" in error
    found = run_status(pipeline / "runs" / "judged")
    assert (found.state, found.name) == ("failed", "judged")
    assert "not today" in str(found.exit and found.exit["cause"])
    assert "failed" in distft("status", "runs")[1]
    broken.write_text("def right(prompts, completions, **columns):\n    return [1.0] * len(completions)\n")
    sys.modules.pop("broken")
    status, output, error = distft(*words)
    assert status == 0, error
    assert "correct" in output
    assert run_status(pipeline / "runs" / "judged").state == "done"
    assert [one.number for one in run_status(pipeline / "runs" / "judged").attempts] == [1, 2]


def test_it_is_planned_and_submitted_as_one_process(pipeline: Path, distft: Typed) -> None:
    output = distft("plan", "mine.yaml")[1]
    assert "mine-judged (eval) on local: one process on one node" in output
    [plan] = json.loads(distft("plan", "mine.yaml", "--json")[1]).values()
    assert (plan["kind"], plan["after"], plan["weights"]) == ("eval", [], None)
    words = ("submit", "slurm", "mine.yaml", "--cluster", "slurm-h100", "--dry-run", "--json")
    [answer] = json.loads(distft(*words)[1])
    assert (answer["stage"], answer["run_dir"]) == ("judged", str(pipeline / "runs" / "judged"))
    assert {"--nodes=1", "--gpus-per-node=h100:1"} <= set(answer["command"])
    step = answer["command"].index("--step")
    assert shlex.join(["distft", *answer["command"][step + 3 :]]) == plan["command"]
    assert not any(word.startswith("--signal") for word in answer["command"])
