"""Planted faults raise their alarm, once; runs that are well raise none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from distft.report.run_data import read_run
from distft.report.sections import alarms as report_alarms
from distft.tracking.alarms import (
    CHOSEN,
    ENTROPY,
    GENERAL,
    KL,
    LENGTH,
    LOSS,
    NORM,
    OF_A_SOURCE,
    REJECTED,
    REJECTED_LOSS,
    REPETITION,
    SCORES,
    SKIPPED_STEPS,
    STEP_KL,
    Watch,
)
from distft.tracking.data_alarms import leakage
from distft.tracking.metrics import MetricRecord
from distft.tracking.progress import QuietProgress
from distft.tracking.tracker import Tracker
from distft.tracking.wandb_backend import WandbBackend, WandbOptions

Curves = Mapping[str, Sequence[float]]


def ramp(start: float, end: float, steps: int = 40) -> list[float]:
    return [start + (end - start) * step / (steps - 1) for step in range(steps)]


def raised(curves: Curves, total_steps: int | None = None) -> list[tuple[int, str]]:
    watch = Watch()
    rows = zip(*curves.values(), strict=True)
    return [
        (step, alarm.name)
        for step, row in enumerate(rows, 1)
        for alarm in watch.observe("train", dict(zip(curves, row, strict=True)), is_end=step == total_steps)
    ]


PLANTED: list[tuple[str, Curves]] = [
    ("steps left out", {SKIPPED_STEPS: [*[0] * 20, *[1] * 20]}),
    ("steps left out", {f"value/{SKIPPED_STEPS}": [*[0] * 20, *range(1, 21)]}),
    ("entropy collapse", {ENTROPY: ramp(1.0, 0.001, 20) + [0.001] * 20}),
    ("KL spike", {KL: [*[2.0] * 30, 12.0, *[2.0] * 9]}),
    ("updates too large", {STEP_KL: [*[0.01] * 20, *[0.5] * 20]}),
    ("dead gradients", {NORM: [*[1.0] * 20, *[0.0] * 20]}),
    ("reward hacking?", {SCORES: ramp(0, 3), KL: ramp(0, 90), LENGTH: [20.0] * 40}),
    ("reward hacking?", {SCORES: ramp(0, 3), KL: [5.0] * 40, LENGTH: ramp(20, 100)}),
    ("reward hacking?", {SCORES: ramp(0, 3), KL: [5.0] * 40, LENGTH: ramp(90, 8)}),
    ("repetition", {REPETITION: ramp(0.02, 0.7)}),
    ("chosen answers are unlearned", {CHOSEN: ramp(-100, -160), REJECTED: ramp(-100, -180)}),
]
# As the quickstart and grpo-tiny went, a value of every second or third step.
HEALTHY: list[Curves] = [
    {
        CHOSEN: [-14, -13, -14, -16, -17, -17, -14, -15, -17, -16, -19, -17, -20, -18, -18],
        REJECTED: [-9.3, -10, -14, -18, -20, -27, -28, -30, -36, -31, -34, -39, -40, -32, -33],
        LOSS: [0.69, 0.65, 0.56, 0.45, 0.45, 0.3, 0.28, 0.26, 0.15, 0.23, 0.24, 0.21, 0.22, 0.21, 0.21],
        NORM: [0.7] * 15,
    },
    {
        ENTROPY: [0.95, 0.88, 0.93, 0.87, 0.91, 0.91, 0.91, 0.84, 0.86, 0.9, 0.81, 0.87, 0.88, 0.83, 0.9],
        KL: [0, 0.52, 0.88, 2.7, 5, 5.5, 5.1, 4.2, 4.9, 3.8, 3.1, 4.8, 3.8, 5.2, 5.3],
        STEP_KL: [0.009, *[0.001] * 14],
        SCORES: [-1.2, 0.26, 0.28, 1.1, 1.4, 1.5, 1.7, 1.6, 1.9, 2.1, 1.9, 2.1, 2.2, 2.2, 2.2],
        LENGTH: [15, 20, 20, 25, 28, 27, 26, 26, 26, 26, 26, 26, 26, 27, 24],
        LOSS: [0] * 15,
        REPETITION: [0.02, 0.02, 0.03, 0.02, 0.04, 0.06, 0.09, 0.08, 0.1, 0.12, 0.1, 0.13, 0.11, 0.12, 0.12],
    },
    {
        ENTROPY: [0.31, 0.34, 0.31, 0.24, 0.2, 0.18, 0.12, 0.11, 0.13, 0.085, 0.1, 0.1, 0.086, 0.072, 0.072],
        KL: [0, 0.69, 1.6, 2, 2.2, 2.6, 3.1, 2.7, 2.7, 2.5, 2.9, 2.7, 2.8, 2.7, 2.7],
        SCORES: [0.096, 0.25, 0.42, 0.58, 0.62, 0.72, 0.83, 0.83, 0.79, 0.85, 0.87, 0.87, 0.86, 0.9, 0.9],
        LENGTH: [4] * 15,
    },
]  # fmt: skip


@pytest.mark.parametrize(("name", "curves"), PLANTED, ids=[f"{one[0]}-{at}" for at, one in enumerate(PLANTED)])
def test_what_is_planted_is_found_once(name: str, curves: Curves) -> None:
    assert [alarm for _, alarm in raised(curves)] == [name]


@pytest.mark.parametrize("curves", HEALTHY, ids=["dpo", "ppo", "grpo"])
def test_a_run_that_is_well_raises_none(curves: Curves) -> None:
    assert raised(curves, total_steps=15) == []


def test_repetition_with_a_rising_score_is_reward_hacking_too() -> None:
    found = raised({SCORES: ramp(0, 3), KL: [5.0] * 40, LENGTH: [20.0] * 40, REPETITION: ramp(0.02, 0.7)})
    assert {name for _, name in found} == {"reward hacking?", "repetition"}
    assert raised({REPETITION: [0.45] * 40}) == [], "answers that repeat by their nature"


def held_out(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """What held-out metrics raise, evaluation by evaluation."""
    watch = Watch()
    return [f"{number} {alarm.name}" for number, row in enumerate(rows, 1) for alarm in watch.observe("eval", row)]


@pytest.mark.parametrize(("rejected", "told"), [
    ([3.0, 2.4, 1.6], ["3 rejected answers are learned"]),  # 1.4 of the 2 that the chosen ones fell by
    ([3.0, 2.9, 2.8], []), ([3.0, 2.6, 2.2], []), ([3.0, 3.5, 4.0], []),
])  # fmt: skip
def test_rejected_answers_that_become_as_likely_as_the_chosen(rejected: list[float], told: list[str]) -> None:
    assert held_out([{LOSS: chosen, REJECTED_LOSS: other} for chosen, other in zip(
        [3.0, 1.5, 1.0], rejected, strict=True)]) == told  # fmt: skip
    assert held_out([{LOSS: chosen} for chosen in (3.0, 1.5, 1.0)]) == []


@pytest.mark.parametrize(("source", "told"), [
    ([2.0, 1.8, 2.1, 2.4], ["4 train and eval drift apart"]), ([2.0, 2.3, 2.3], ["3 train and eval drift apart"]),
    ([2.0, 1.8, 2.4, 1.9], []), ([2.0, 1.8, 1.7, 1.9], []), ([0.05, 0.06, 0.07, 0.08], []),
])  # fmt: skip
def test_a_source_whose_loss_rises_while_that_of_all_falls(source: list[float], told: list[str]) -> None:
    whole = [2.0, 1.5, 1.2, 1.0]
    rows = [{LOSS: all_rows, f"{OF_A_SOURCE}web": one, f"{OF_A_SOURCE}books": all_rows / 2} for all_rows, one in zip(
        whole, source, strict=False)]  # fmt: skip
    assert held_out(rows) == told
    rising = [{**row, LOSS: 2.0 + number} for number, row in enumerate(rows)]
    assert not [alarm for alarm in held_out(rising) if "drift" in alarm], "all of it rises: that is another alarm"


def test_a_held_out_loss_that_rises_is_overfitting() -> None:
    watch, found = Watch(), []
    for step, (trained, held_out) in enumerate(zip(ramp(3, 0.1, 60), ramp(2, 1, 30) + ramp(1, 2, 30), strict=True), 1):
        watch.observe("train", {LOSS: trained})
        found += watch.observe("eval", {LOSS: held_out}) if step % 5 == 0 else []
    assert [alarm.name for alarm in found] == ["overfitting"]
    assert "rose to" in found[0].said


@pytest.mark.parametrize(("end", "names"), [(2.0, ["underfitting"]), (1.0, [])])
def test_a_loss_that_ends_where_it_began_is_said_at_the_end(end: float, names: list[str]) -> None:
    noise = [0.01 * (-1) ** step for step in range(60)]
    curve = [value + wobble for value, wobble in zip(ramp(2.0, end, 60), noise, strict=True)]
    assert raised({LOSS: curve}, total_steps=60) == [(60, name) for name in names]


def test_numbers_that_are_none_are_passed_over() -> None:
    watch = Watch()
    assert watch.observe("train", {LOSS: float("nan"), NORM: None, KL: float("inf")}) == []
    assert watch.of(LOSS).count == watch.of(NORM).count == watch.of(KL).count == 0


def test_it_is_an_event_and_a_line_and_is_not_said_again_after_a_resume(tmp_path: Path) -> None:
    class Seen(QuietProgress):
        def note(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    for attempt, resume, steps in ((1, None, range(1, 11)), (2, 8, range(9, 20))):
        with Tracker(tmp_path, attempt=attempt, resume_step=resume, progress=Seen()) as tracker:
            for step in steps:
                tracker.log(step, {NORM: 0.0})
    [event] = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert (event["event"], event["name"], event["step"], event["attempt"]) == ("alarm", "dead gradients", 5, 1)
    assert len(said) == 1
    assert said[0].startswith("alarm at step 5: dead gradients: the gradient was zero for 5 steps")


@pytest.mark.parametrize(("name", "curves"), PLANTED, ids=[f"{one[0]}-{at}" for at, one in enumerate(PLANTED)])
def test_each_is_an_event_a_line_an_alert_and_an_entry_of_the_report(
    name: str, curves: Curves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(QuietProgress):
        def note(self, text: str) -> None:
            lines.append(text)

    class Told(WandbBackend):
        def __init__(self, *_: object, **__: object) -> None:
            self.run_id = ""

        def log(self, record: MetricRecord) -> None:
            pass

        def alert(self, title: str, text: str) -> None:
            alerts.append(f"{title}: {text}")

        def close(self, *_: object) -> None:
            pass

    lines: list[str] = []
    alerts: list[str] = []
    monkeypatch.setattr("distft.tracking.tracker.WandbBackend", Told)
    options = WandbOptions("offline", "p", "n", "ppo", "g")
    with Tracker(tmp_path, attempt=1, resume_step=None, progress=Seen(), wandb=options) as tracker:
        for step, row in enumerate(zip(*curves.values(), strict=True), 1):
            tracker.log(step, dict(zip(curves, row, strict=True)))
    [event] = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert event["name"] == name
    assert event["do"]
    both = f"{event['said']}; {event['do']}"
    assert lines == [f"alarm at step {event['step']}: {name}: {both}"]
    assert alerts == [f"{name} at step {event['step']}: {both}"]
    [entry] = report_alarms(read_run(tmp_path))
    assert entry["said"] == f"{name} at step {event['step']}: {event['said']}. What helps: {event['do']}"


def test_the_end_is_known_from_when_the_rows_are(tmp_path: Path) -> None:
    with Tracker(tmp_path, attempt=1, resume_step=None) as tracker:  # train.epochs: the steps are counted later
        tracker.total_steps = 60
        for step in range(1, 61):
            tracker.log(step, {LOSS: 2.0 + 0.01 * (-1) ** step})
    [event] = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert (event["name"], event["step"]) == ("underfitting", 60)


def test_a_restart_in_the_process_counts_no_step_twice(tmp_path: Path) -> None:
    with Tracker(tmp_path, attempt=1, resume_step=None) as tracker:
        for step in range(1, 5):
            tracker.log(step, {NORM: 0.0})
        tracker.go_on(2, resume_step=2)
        tracker.log(3, {NORM: 0.0})
        assert not (tmp_path / "events.jsonl").exists() or not (tmp_path / "events.jsonl").read_text()
        for step in (4, 5):
            tracker.log(step, {NORM: 0.0})
    [event] = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert (event["name"], event["step"], event["attempt"]) == ("dead gradients", 5, 2)


def test_leaked_rows_are_an_event_that_says_what_became_of_them(tmp_path: Path) -> None:
    with Tracker(tmp_path, attempt=1, resume_step=None) as tracker:
        tracker.alarm(0, leakage({"train": 1200, "eval": 2}, stay=False))
    [event] = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert (event["event"], event["name"], event["step"]) == ("alarm", "leakage", 0)
    assert event["said"].startswith("1,200 rows of data.train and 2 rows of data.eval ask what held-out rows ask")
    assert event["said"].endswith("are left out")
    assert "held-out metrics flatter" in leakage({"train": 1}, stay=True).said


@pytest.mark.parametrize(("losses", "told"), [
    ([3.0, 3.1, 3.2, 3.5], [4]), ([0.2, 0.25, 0.29, 0.31], [4]),  # a tenth more, and a tenth of a nat
    ([3.0, 3.2, 2.9, 3.1], []), ([6.0, 5.0, 4.0, 4.9], []), ([0.2, 0.24, 0.25, 0.29], []),
])  # fmt: skip
def test_text_that_becomes_less_likely_than_at_the_start_is_being_forgotten(
    losses: list[float], told: list[int]
) -> None:
    watch = Watch()
    found = [number for number, loss in enumerate(losses, 1) for _ in watch.observe("eval", {GENERAL: loss})]
    assert found == told
