from __future__ import annotations

import errno
import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from distft.tracking.metrics import EventsLog, MetricRecord, MetricsLog, Sample, SamplesLog, numbers_of


def lines(path: Path) -> list[dict[str, Any]]:
    def no_constants(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=no_constants) for line in path.read_text().splitlines()]


def test_a_line_as_the_contract_says(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, None)
    before = time.time()
    log.write(MetricRecord(1, "train", {"loss": 0.5, "num_tokens": 12, "rewards/margins": -1.0}))
    log.close()
    [line] = lines(tmp_path / "metrics.jsonl")
    assert before <= line.pop("time") <= time.time()
    assert line == {"format": 1, "step": 1, "split": "train", "loss": 0.5, "num_tokens": 12, "rewards/margins": -1.0}


def test_what_is_not_finite_is_null_and_named_and_read_again(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, None)
    log.write(MetricRecord(1, "train", {"loss": float("nan"), "kl": float("-inf"), "a": 1.0}))
    log.close()
    [line] = lines(tmp_path / "metrics.jsonl")
    assert (line["loss"], line["kl"], line["a"]) == (None, None, 1.0)
    assert line["nonfinite"] == {"loss": "nan", "kl": "-inf"}
    told = numbers_of(line)
    assert math.isnan(told.pop("loss"))
    assert told == {"kl": -math.inf, "a": 1.0}


def test_metrics_cannot_take_the_lines_own_names() -> None:
    with pytest.raises(ValueError, match="split, step"):
        MetricRecord(1, "train", {"step": 1.0, "split": 0.0}).as_json()


def test_resume_cuts_both_splits_after_the_step(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, None)
    log.write(MetricRecord(0, "eval", {"loss": 0.0}))
    for step in range(1, 8):
        log.write(MetricRecord(step, "train", {"loss": 1.0 / step}))
        if step % 2 == 0:
            log.write(MetricRecord(step, "eval", {"loss": 2.0 / step}))
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"format": 1, "step": 8, "ti')
    log = MetricsLog(tmp_path, 5)
    assert log.num_cut == 4
    log.write(MetricRecord(6, "train", {"loss": 9.0}))
    log.close()
    kept = [(line["step"], line["split"]) for line in lines(tmp_path / "metrics.jsonl")]
    assert kept == [(0, "eval"), (1, "train"), (2, "train"), (2, "eval"), (3, "train"), (4, "train"), (4, "eval"),
                    (5, "train"), (6, "train")]  # fmt: skip


def test_from_the_beginning_nothing_is_kept(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, None)
    log.write(MetricRecord(0, "eval", {"loss": 0.0}))
    log.close()
    MetricsLog(tmp_path, None).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_full_disk_loses_no_line_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = MetricsLog(tmp_path, None)
    log.write(MetricRecord(1, "train", {}))

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(os, "write", full)
        log.write(MetricRecord(2, "train", {}))
        log.write(MetricRecord(3, "train", {}))
        assert caplog.text.count("No space left") == 1
        monkeypatch.undo()
        log.write(MetricRecord(4, "train", {}))
    log.close()
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert "3 lines caught up" in caplog.text


def test_events_carry_the_attempt_and_go_on_over_attempts(tmp_path: Path) -> None:
    for attempt in (1, 2):
        log = EventsLog(tmp_path, attempt)
        log.write("group_ready", role="policy", workers=[{"rank": 0, "node": "n1", "pid": 7}])
        log.close()
    found = lines(tmp_path / "events.jsonl")
    assert [(line["format"], line["event"], line["attempt"], line["role"]) for line in found] == [
        (1, "group_ready", 1, "policy"), (1, "group_ready", 2, "policy")]  # fmt: skip
    assert found[0]["workers"] == [{"rank": 0, "node": "n1", "pid": 7}]
    assert abs(found[0]["time"] - time.time()) < 60


def test_events_take_whatever_a_failure_has_to_say(tmp_path: Path) -> None:
    log = EventsLog(tmp_path, 1)
    log.write("failure", error=ValueError("x"), path=Path("/a"), loss=float("nan"), seen={3}, deep={1: [float("inf")]})
    log.write("stop")
    log.close()
    first, second = lines(tmp_path / "events.jsonl")
    assert (first["error"], first["path"], first["loss"], first["seen"]) == ("x", "/a", "nan", [3])
    assert first["deep"] == {"1": ["inf"]}
    assert second["event"] == "stop"


def test_a_record_that_is_no_json_does_not_block_the_next(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, None)
    with pytest.raises(TypeError):
        log.write(MetricRecord(object(), "train", {}))  # type: ignore[arg-type]
    log.write(MetricRecord(2, "train", {}))
    log.close()
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [2]


def test_samples(tmp_path: Path) -> None:
    log = SamplesLog(tmp_path, 2)
    log.write(10, [Sample("Q: a\nb", "ü\u2028", 0.5), Sample("q", "c"), Sample("q", "c", float("nan"))])
    log.close()
    found = lines(tmp_path / "samples.jsonl")
    assert [(line["attempt"], line["step"], line["prompt"], line["completion"], line["score"]) for line in found] == [
        (2, 10, "Q: a\nb", "ü\u2028", 0.5), (2, 10, "q", "c", None), (2, 10, "q", "c", None)]  # fmt: skip
