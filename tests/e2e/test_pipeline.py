"""A pipeline that is ended in its second stage goes on there, and ends as one that nobody disturbed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import Start, computed, events, exit_record, weights
from tests.harness.pipelines import STAGES, three_stages

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
    finished = start(*words, folder="disturbed")
    assert finished.end() == 0
    assert "all stages were finished already" in finished.output
