"""The rows below the curves."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from distft.arguments import parse
from distft.common.errors import RunFailed, StoppedOnRequest
from distft.report import sections
from distft.report.run_data import read_run
from distft.tracking.exit import Ending
from distft.tracking.metrics import EventsLog, Sample, SamplesLog
from distft.tracking.tracker import Tracker
from tests.unit.report.conftest import MakeRun


def test_the_time_of_a_step_adds_up(make_run: MakeRun) -> None:
    phases = sections.time_by_phase(read_run(make_run()))
    assert [(one["name"], one["seconds"], one["share"]) for one in phases] == [
        ("update", 3.0, 0.6), ("rollout", 1.0, 0.2), ("everything else", 1.0, 0.2),
    ]  # fmt: skip


def test_memory_is_held_against_the_plan(make_run: MakeRun) -> None:
    run = read_run(make_run())
    rows = {row["role"]: row for row in sections.memory(run)}
    assert rows["policy"]["device"] == "1.0 GiB"
    assert rows["policy"]["planned"]
    assert rows["policy"]["share"].endswith("%")
    assert rows["value"]["device"] == ""
    assert sections.loads(run)


def test_who_ended_a_run_is_said(make_run: MakeRun) -> None:
    died = Ending.of(RunFailed("its process died", role="policy", rank=1, node="n7"))
    assert sections.cause(read_run(make_run("died", ending=died))) == "policy rank 1 on n7: its process died"
    stopped = Ending.of(StoppedOnRequest("stopped after step 3"))
    assert sections.cause(read_run(make_run("stopped", ending=stopped))) == "stopped after step 3"
    assert sections.cause(read_run(make_run())) == sections.cause(read_run(make_run("lost", ending=None))) == ""


def test_the_same_prompt_early_and_late(make_run: MakeRun) -> None:
    pair = sections.pairs_of_samples(read_run(make_run()))[0]
    assert pair["same"]
    assert (pair["early"]["completion"], pair["late"]["completion"]) == ("Yes. 1", "Yes. 5")


def test_a_prompt_is_shown_once_held_out_ones_first_with_the_rows_own_answer(make_run: MakeRun) -> None:
    run_dir = make_run()
    (run_dir / "samples.jsonl").unlink()
    log = SamplesLog(run_dir, 1)
    for step in (0, 5, 9):
        log.write(step, [Sample("seen", f"s{step}")])
        log.write(step, [Sample("held out", f"h{step}", wanted="right")], split="eval")
    log.close()
    found = sections.pairs_of_samples(read_run(run_dir))
    assert [(one["early"]["completion"], one["late"]["completion"], one["late"]["wanted"]) for one in found] == [
        ("h0", "h9", "right"), ("s0", "s9", ""),
    ]  # fmt: skip


def test_the_two_answers_of_a_pair_are_not_taken_for_one(make_run: MakeRun) -> None:
    run_dir = make_run()
    (run_dir / "samples.jsonl").unlink()
    log = SamplesLog(run_dir, 1)
    for step in (0, 9):
        pair = [Sample("p", "yes", float(step), side="chosen"), Sample("p", "no", -float(step), side="rejected")]
        log.write(step, pair, split="eval")
    log.close()
    found = sections.pairs_of_samples(read_run(run_dir))
    assert [(one["late"]["side"], one["late"]["score"]) for one in found] == [("chosen", "9"), ("rejected", "-9")]


def test_different_prompts_are_told_apart(make_run: MakeRun) -> None:
    run_dir = make_run()
    (run_dir / "samples.jsonl").unlink()
    log = SamplesLog(run_dir, 1)
    log.write(1, [Sample("a", "1"), Sample("b", "2")])
    log.write(9, [Sample("c", "3")])
    log.close()
    found = sections.pairs_of_samples(read_run(run_dir))
    assert [(one["early"]["prompt"], one["late"] and one["late"]["prompt"], one["same"]) for one in found] == [
        ("a", "c", False), ("b", None, False),
    ]  # fmt: skip


def test_alarms_are_the_events_that_ask_for_a_look(make_run: MakeRun) -> None:
    run_dir = make_run()
    log = EventsLog(run_dir, 1)
    log.write("checkpoint_failed", step=3, cause="disk full")
    log.close()
    run = read_run(run_dir)
    assert [one["said"] for one in sections.alarms(run)] == ["attempt 1; step 3; cause disk full"]
    assert [one["name"] for one in sections.events(run)] == ["done", "checkpoint_failed"]


def test_an_alarm_is_said_as_a_sentence(make_run: MakeRun) -> None:
    folder = make_run()
    with Tracker(folder, attempt=2, resume_step=5) as tracker:
        for step in range(6, 12):
            tracker.log(step, {"grad_norm": 0.0})
    (alarm,) = sections.alarms(read_run(folder))
    assert alarm["said"].startswith("dead gradients at step 10: the gradient was zero for 5 steps")
    assert "What helps: look at distft data" in alarm["said"]


def test_data_and_environment(make_run: MakeRun) -> None:
    run = read_run(make_run())
    assert dict(sections.data_rows(run))["train"] == "builtin:dialogues: 6000 of 6000 rows kept"
    assert "torch" in dict(sections.environment_rows(run))["packages"]


@pytest.mark.parametrize("name", ["run", "it's; a $(name)"])
def test_the_command_is_one_that_the_program_takes(make_run: MakeRun, name: str) -> None:
    run_dir = make_run(name)
    line = sections.commands(read_run(run_dir)).splitlines()[-1]
    parsed = parse(shlex.split(line)[1:])
    assert Path(parsed.recipe) == run_dir / "recipe.yaml"
    assert parsed.overrides == [f"output_dir={run_dir}-again"]


@pytest.mark.parametrize("bad", [None, "x", 1e300, float("nan")])
def test_a_time_that_is_none_says_nothing(bad: object) -> None:
    assert sections.moment(bad) == ""
