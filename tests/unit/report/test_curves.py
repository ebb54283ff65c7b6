"""Curves from metrics.jsonl: what is read, what is thinned."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from distft.report.curves import MAX_POINTS, read_ledger, thinned
from distft.tracking.metrics import FORMAT, MetricRecord, MetricsLog


def write(path: Path, num_steps: int, spike: int) -> None:
    lines = ({"step": n, "split": "train", "loss": 100.0 if n == spike else 1.0 / n} for n in range(1, num_steps + 1))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_the_tracker_wrote_is_read(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, None)
    for step, loss in ((1, 2.0), (2, math.nan), (3, -math.inf), (4, 1.0)):
        log.write(MetricRecord(step, "train", {"loss": loss, "num": 3}))
    log.write(MetricRecord(4, "eval", {"loss": 1.5}))
    log.close()
    ledger = read_ledger(tmp_path / "metrics.jsonl", FORMAT)
    loss = ledger.of("train")["loss"]
    assert list(loss.x) == [1, 2, 3, 4]
    assert np.array_equal(loss.y, [2.0, math.nan, -math.inf, 1.0], equal_nan=True)
    assert (loss.not_finite, list(loss.finite)) == ([2, 3], [2.0, 1.0])
    assert list(ledger.of("eval")["loss"].y) == [1.5]
    assert (ledger.num_steps, ledger.num_torn, ledger.newer) == (4, 0, False)


def test_torn_lines_are_counted_and_an_unknown_format_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = '{"format": 2, "step": 1, "split": "train", "loss": 1.0, "word": "x", "flag": true}\n'
    path.write_bytes(good.encode() + b'[1]\n{"step": "x"}\n{"step": NaN}\n\xff\xfe\n{"step": 2, "lo')
    ledger = read_ledger(path, FORMAT)
    assert ledger.num_torn == 5
    assert ledger.newer
    assert list(ledger.of("train")) == ["loss"]


def test_a_missing_file_has_no_curves(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "metrics.jsonl", FORMAT).curves == {}


def test_a_long_run_is_thinned_and_keeps_its_spike(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 20_000, spike=4_321)
    curve = read_ledger(path, FORMAT).of("train")["loss"]
    x, y = thinned(curve.x, curve.y)
    assert len(x) == len(y) <= MAX_POINTS + 2
    assert x == sorted(set(x))
    assert (x[0], x[-1]) == (1, 20_000)
    assert y[x.index(4_321)] == 100


def test_read_in_passing_takes_lines_at_even_distances_and_every_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1000, spike=0)
    with path.open("a") as file:
        file.writelines(json.dumps({"step": n, "split": "eval", "loss": 1.0}) + "\n" for n in (1, 2, 3))
    ledger = read_ledger(path, FORMAT, max_lines=100)
    assert ledger.stride == 11
    assert len(ledger.of("train")["loss"].x) == pytest.approx(1000 / 11, abs=1)
    assert len(ledger.of("eval")["loss"].x) == 3


def test_what_is_not_finite_is_a_gap() -> None:
    x, y = np.arange(4.0), np.array([1.0, math.nan, math.inf, 1 / 3])
    assert thinned(x, y) == ([0, 1, 2, 3], [1, None, None, 0.333333])
    long = np.full(5000, math.nan)
    assert set(thinned(np.arange(5000.0), long)[1]) == {None}
