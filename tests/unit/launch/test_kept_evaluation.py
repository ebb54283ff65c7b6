"""An evaluation's folder: what counts as asked before, and how it ends where it is told to."""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from distft.checkpoint.lease import living
from distft.common.errors import StoppedOnRequest, UserError
from distft.config.eval_stage import EvalKeys
from distft.config.load import load_recipe
from distft.launch.evaluated_files import states_of
from distft.launch.kept_evaluation import Kept, asked_of, found_before, kept_evaluation
from distft.tracking.exit import read_exit
from distft.tracking.stop_request import ask_to_stop

ASKED = {"eval": ["no/such/model"], "limit": 4}
FOUND = Kept({"models": [], "notes": []}, "a table")


def wait_for_the_end() -> Kept:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        time.sleep(0.01)
    raise AssertionError("nobody ended it")


def test_a_command_line_asks_what_the_keys_ask() -> None:
    keys = EvalKeys.model_validate({
        "eval": ["a", "b"], "shots": [0, 2], "temperature": 0.5, "no_answers": False, "data": ["x.jsonl"], "seed": 0,
        "judge": "c", "judge_deadline": 3.0,
    })  # fmt: skip
    options = {
        "shots": [0, 2], "no_answers": False, "data": ["x.jsonl"], "seed": 0, "judge": "c", "judge_deadline": 3.0,
        "limit": None, "output": Path("f"), "json": True,
    }  # fmt: skip
    assert asked_of(["a", "b"], ["temperature=0.5"], options) == keys.asked()
    assert asked_of(["a", "b"], ["rollout.temperature=0.5"], options) == keys.asked()


def test_it_is_found_again_only_where_it_ended_well(tmp_path: Path) -> None:
    folder = tmp_path / "judged"
    assert kept_evaluation(folder, ASKED, lambda: FOUND) == FOUND
    assert found_before(folder, ASKED) == Kept(FOUND.figures, FOUND.tables, before=True)
    assert found_before(folder, {**ASKED, "limit": 5}) is None

    def fails() -> Kept:
        raise RuntimeError("odd")

    with pytest.raises(RuntimeError, match="odd"):
        kept_evaluation(folder, {**ASKED, "limit": 5}, fails)
    ended = read_exit(folder)
    assert ended is not None
    assert ended["exit_status"] == 1
    assert found_before(folder, ASKED) is None, "what stands there is of the former one"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(("key", "name", "file", "another"), [
    ("eval", "run:run", "checkpoints/step_00000002/manifest.json", "checkpoints/step_00000004/manifest.json"),
    ("eval", "run:run", "checkpoints/step_00000002/manifest.json", "final/SHA256SUMS"),
    ("eval", "run/checkpoints/step_00000002", "manifest.json", "manifest.json"),
    ("eval", "run", "SHA256SUMS", "SHA256SUMS"),
    ("eval", "run", "model.safetensors", "model.safetensors"),
    ("eval", "run", "model.safetensors", "tokenizer.json"),
    ("judge", "run", "model.safetensors", "model.safetensors"),
    ("adapter", "run", "adapter_config.json", "adapter_model.safetensors"),
    ("data", "run.jsonl", "", ""),
    ("shots_from", "run", "train.jsonl", "train-2.jsonl"),
    ("chat_template", "run.jinja", "", ""),
])  # fmt: skip
def test_what_it_reads_has_changed(
    key: str, name: str, file: str, another: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place, folder = Path(name.removeprefix("run:")), tmp_path / "judged"
    write(place / file, "one")
    asked = {**ASKED, key: name if key in ("judge", "adapter", "chat_template") else [name]}
    assert kept_evaluation(folder, asked, lambda: FOUND) == FOUND
    assert found_before(folder, asked) is not None
    write(place / another, "another")
    assert found_before(folder, asked) is None
    assert kept_evaluation(folder, asked, lambda: FOUND) == FOUND
    assert found_before(folder, asked) is not None


def test_what_is_no_file_has_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = {
        "eval": ["org/model"], "judge": "http://127.0.0.1:1/v1", "data": ["builtin:dialogues"],
        "chat_template": "{% for message in messages %}" + "{{ message.content }}" * 500 + "{% endfor %}",
    }  # fmt: skip
    assert list(states_of(asked).values()) == [None] * 4


def test_what_is_no_number_is_none(tmp_path: Path) -> None:
    beyond = {"value": math.inf, "low": 1.0, "high": math.inf}
    figures = {
        "unit": "answers", "rows": 1, "rows_in_all": 1, "level": 0.95, "by_source": {}, "comparisons": [], "notes": [],
        "prompting": None, "models": [{"name": "<b>", "metrics": {"perplexity": beyond}}],
    }  # fmt: skip
    found = kept_evaluation(tmp_path, ASKED, lambda: Kept(figures, ""))
    assert found.figures["models"][0]["metrics"]["perplexity"] == {"value": None, "low": 1.0, "high": None}
    page = (tmp_path / "report.html").read_text()
    assert 'no number<br><span class="about">1 to no number' in page
    assert "&lt;b&gt;" in page


@pytest.mark.parametrize(("how", "kind"), [("SIGTERM", "stopped"), ("SIGHUP", "stopped"), ("cancel", "cancelled")])
def test_who_is_told_to_end_ends_at_once_and_is_begun_anew(how: str, kind: str, tmp_path: Path) -> None:
    def told() -> Kept:
        if how != "cancel":
            try:
                os.kill(os.getpid(), signal.Signals[how])
                wait_for_the_end()
            finally:
                os.kill(os.getpid(), signal.SIGTERM)  # a second one is not heard
        else:
            held = living(tmp_path)
            assert held is not None
            assert held.owner is not None
            ask_to_stop(tmp_path, tokens=[held.owner.token], jobs=[], now=False)
        return wait_for_the_end()

    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedOnRequest, match="the same command does it anew") as caught:
        kept_evaluation(tmp_path, ASKED, told)
    assert caught.value.exit_status == 75
    ended = read_exit(tmp_path)
    assert ended is not None
    assert (ended["class"], ended["exit_status"]) == (kind, 75)
    assert signal.getsignal(signal.SIGTERM) == former
    assert living(tmp_path) is None
    assert kept_evaluation(tmp_path, ASKED, lambda: FOUND) == FOUND


def test_what_wandb_is_not_told_of_is_found_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def ends(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("distft.launch.evaluation_wandb.WandbBackend", ends)
    found = replace(FOUND, recipe=load_recipe("sft-tiny"))
    with caplog.at_level("WARNING", "distft"):
        assert kept_evaluation(tmp_path, ASKED, lambda: found) == found
    assert "W&B was not told of the evaluation (can't start new thread)" in caplog.text
    ended = read_exit(tmp_path)
    assert ended is not None
    assert ended["exit_status"] == 0
    assert found_before(tmp_path, ASKED) is not None


def test_no_run_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(UserError, match=r"(?s)a run lies in this folder.*give another: --output FOLDER"):
        kept_evaluation(tmp_path, ASKED, lambda: FOUND)
