"""A pipeline that is ended in its second stage, or in its evaluation, goes on there, and ends as one that nobody
disturbed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from distft.tracking.run_status import run_status
from tests.e2e.conftest import Start, computed, events, exit_record, weights
from tests.harness.pipelines import STAGES, judged, three_stages
from tests.harness.wandb_records import of_type, rows

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]


def test_killed_in_stage_two_it_goes_on_there(start: Start, tmp_path: Path) -> None:
    words = ("train", three_stages(tmp_path / "three.yaml"))
    undisturbed = start(*words, folder="undisturbed")
    assert undisturbed.end(900) == 0, undisturbed.output
    verb = start(*words, folder="disturbed")
    verb.wait_for(lambda: (verb.folder / "dpo" / "logs").is_dir(), "the second stage")
    replace(verb, folder=verb.folder / "dpo").wait_for_stage("policy-1", "update Dpo from step 3\n")
    os.kill(verb.process.pid, signal.SIGKILL)
    assert verb.end() == -signal.SIGKILL
    verb.assert_nothing_left()
    assert exit_record(verb.folder / "sft")["class"] == "done"
    assert not (verb.folder / "kto").exists()
    first = (verb.folder / "sft" / "metrics.jsonl").read_bytes()

    again = start(*words, folder="disturbed")
    assert again.end(900) == 0, again.output
    assert "sft: already finished" in again.output
    assert [event["step"] for event in events(again.folder / "dpo", "resume")] == [2]
    assert not events(again.folder / "kto", "resume")
    assert (again.folder / "sft" / "metrics.jsonl").read_bytes() == first
    for stage in STAGES:
        assert computed(again.folder / stage) == computed(undisturbed.folder / stage), stage
        assert weights(again.folder / stage) == weights(undisturbed.folder / stage), stage
    assert judged(again.folder) == judged(undisturbed.folder)
    assert [model["name"] for model in judged(again.folder)["models"]] == list(STAGES)
    groups = [run["run_group"] for stage in (*STAGES, "judged") for run in of_type(again.folder / stage, "run")]
    assert set(groups) == {"three"}
    assert len(groups) >= 4
    [row] = rows(again.folder / "judged")
    assert row["eval/kto/loss"] == judged(again.folder)["models"][2]["metrics"]["loss"]["value"]
    finished = start(*words, folder="disturbed")
    assert finished.end() == 0
    assert "all stages were finished already" in finished.output
    ended_in_its_evaluation(start, words, again.folder)


def ended_in_its_evaluation(start: Start, words: Sequence[str], folder: Path) -> None:
    """Stopped, then killed: nothing of the stages before is done again, and the figures are the same."""
    before, longer = judged(folder), (*words, "stages.judged.limit=64", "stages.judged.max_new_tokens=60")
    for signum, status, state in ((signal.SIGTERM, 75, "stopped"), (signal.SIGKILL, -signal.SIGKILL, "lost")):
        verb = start(*longer, folder=folder.name)
        since = time.time()
        verb.wait_for(lambda since=since: begun(folder / "judged", since), "the evaluation")
        os.kill(verb.process.pid, signum)
        assert verb.end() == status, verb.output
        verb.assert_nothing_left()
        assert run_status(folder / "judged").state == state
    verb = start(*words, folder=folder.name)
    assert verb.end(900) == 0, verb.output
    assert verb.output.count("already finished, see") == 3
    assert judged(folder) == before


def begun(folder: Path, since: float) -> bool:
    """Whether it has begun to judge since then."""
    return any(event["time"] > since for event in events(folder, "evaluate"))
