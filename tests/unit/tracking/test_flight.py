"""flight.jsonl: what is written is read, cut with the run, and never too large."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from distft.tracking import flight
from distft.tracking.flight import FLIGHT, ColumnTrace, FlightLog, RankTrace, StepTrace, read_flight
from distft.tracking.tracker import Tracker

UPDATE = StepTrace(
    micro_batches=((0, 2), (), (1,)),
    samples=(1, 2**64 - 1, 3),
    inputs={"prompt_ids": ColumnTrace(2**64 - 1), "advantages": ColumnTrace(5, 0.0, 1e-30)},
    outputs={"logprobs": ColumnTrace(7, -1.5, 1.5)},
    loss=0.1,
    gradients={"embedding": 0.3, "head": 1e-30},
    weights={"embedding": 1 / 3, "head": 4.0},
    before={"embedding": 1.0, "head": 2.0},
)
TRACE = RankTrace(zero_stage=3, shared_by=1, dtype="float32", updates=(UPDATE, replace(UPDATE, before=None)))


def written(folder: Path, steps: range, resume_step: int | None = None, most_bytes: int = flight.MOST_BYTES) -> Path:
    log = FlightLog(folder, resume_step, most_bytes)
    for step in steps:
        log.write(step, "policy", (TRACE, TRACE))
    log.close()
    return folder / FLIGHT


def test_what_is_written_is_read(tmp_path: Path) -> None:
    log = FlightLog(tmp_path, None)
    odd = StepTrace(None, None, {}, {"values": ColumnTrace(0, math.inf, math.nan)}, math.nan, None, {})
    traces = {"policy": (TRACE, TRACE), "value": (RankTrace(0, 2, "bfloat16", (odd,)),)}
    for role, ranks in traces.items():
        log.write(4, role, ranks)
    log.close()
    read = read_flight(tmp_path)
    assert read[4]["policy"] == traces["policy"]
    (told,) = read[4]["value"][0].updates
    assert math.isnan(told.loss)
    assert told.outputs["values"][:2] == (0, math.inf)
    assert str(told.outputs["values"].size) == "nan"
    assert (told.micro_batches, told.gradients, told.before) == (None, None, None)


def test_a_run_that_goes_on_has_no_step_twice(tmp_path: Path) -> None:
    path = written(tmp_path, range(1, 6))
    undisturbed = path.read_bytes()
    path.write_bytes(undisturbed[:-40])  # killed while it wrote
    assert list(read_flight(tmp_path)) == [1, 2, 3, 4], "a step that a rank's line is missing of is left out"
    assert written(tmp_path, range(4, 6), resume_step=3).read_bytes() == undisturbed
    assert written(tmp_path, range(1, 3)).read_bytes() == b"".join(undisturbed.splitlines(keepends=True)[:4])


def test_it_is_cut_as_the_metrics_are_whether_or_not_anybody_records(tmp_path: Path) -> None:
    with Tracker(tmp_path, attempt=1, resume_step=None) as tracker:
        for step in (1, 2, 3):
            tracker.flight(step, "policy", (TRACE,))
            tracker.log(step, {"loss": 1.0})
        tracker.go_on(2, 2)
        tracker.flight(3, "policy", ())
        tracker.log(3, {"loss": 2.0})
    assert list(read_flight(tmp_path)) == [1, 2]
    with Tracker(tmp_path, attempt=3, resume_step=None):
        pass
    assert not (tmp_path / FLIGHT).read_bytes()


def test_nothing_is_written_where_nobody_records(tmp_path: Path) -> None:
    log = FlightLog(tmp_path, None)
    log.write(1, "policy", ())
    log.close()
    assert not (tmp_path / FLIGHT).exists()


def test_the_file_has_a_bound_and_stays_evenly_spaced(tmp_path: Path) -> None:
    of_step = written(tmp_path / "one", range(1, 2)).stat().st_size
    path = written(tmp_path, range(1, 101), most_bytes=20 * of_step + of_step // 2)
    steps = list(read_flight(tmp_path))
    assert path.stat().st_size <= 21 * of_step
    assert steps == list(range(8, 101, 8))
    again = written(tmp_path, range(101, 161), resume_step=100, most_bytes=20 * of_step + of_step // 2)
    assert set(range(8, 161, 8)) - set(read_flight(tmp_path)) <= {step for step in range(8, 161, 8) if step % 16}
    assert again.stat().st_size <= 21 * of_step


def test_lines_that_are_damaged_end_no_reader(tmp_path: Path) -> None:
    path = written(tmp_path, range(1, 4))
    lines = path.read_text().splitlines()
    first = json.loads(lines[0]) | {"step": 9}
    odd = [first | change for change in (
        {"updates": 3}, {"updates": [{}]}, {"updates": []}, {"zero_stage": math.inf}, {"rank": "x"},
        {"zero_stage": None}, {"updates": [{"inputs": {"a": "g"}}]},
    )]  # fmt: skip
    path.write_text("\n".join([*lines, *map(json.dumps, odd), "[1]", "{", "\x00"]) + "\n")
    assert list(read_flight(tmp_path)) == [1, 2, 3]


def test_a_folder_that_cannot_be_written_stops_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = FlightLog(tmp_path, None)
    (tmp_path / FLIGHT).mkdir()
    log.write(1, "policy", (TRACE,))
    log.write(2, "policy", (TRACE,))
    log.close()
    assert caplog.text.count("flight.jsonl is not written further") == 1
