"""A step beside what was logged of it: which metrics differ, and by how much."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from distft.launch.replayed import Replayed, compare, line_of, same_tokens
from distft.verbs.replay import said


@pytest.mark.parametrize(("logged", "now", "tolerance", "equal"), [
    (2.0, 2.0, 0.0, True),
    (2.0, math.nextafter(2.0, 3), 0.0, False),
    (2.0, 2.0001, 1e-4, True),
    (2.0, 2.0003, 1e-4, False),
    (1e-9, 3e-9, 1e-4, True),  # held against 0.001, of which it is 2e-6
    (1e-9, 3e-9, 0.0, False),
    (1e-6, 2e-6, 1e-4, False),
    (math.nan, math.nan, 0.0, True),
    (math.nan, 1.0, 1e9, False),
    (math.inf, math.inf, 0.0, True),
    (math.inf, -math.inf, 0.5, False),
])  # fmt: skip
def test_two_numbers(logged: float, now: float, tolerance: float, equal: bool) -> None:
    (pair,) = compare({"loss": logged}, {"loss": now}, tolerance)
    assert pair.equal is equal


def test_all_that_is_computed_is_compared_and_nothing_that_is_measured() -> None:
    logged = {"loss": 1.0, "timing/step": 1.0, "perf/mfu": 0.1, "memory/rss_bytes": 7.0, "kl": 0.5}
    now = {"loss": 1.5, "timing/step": 2.0, "perf/mfu": 0.2, "memory/rss_bytes": 8.0, "entropy": 2.0}
    pairs = compare(logged, now, 0.0)
    assert [(pair.name, pair.logged, pair.now, pair.equal) for pair in pairs] == [
        ("entropy", None, 2.0, False), ("kl", 0.5, None, False), ("loss", 1.0, 1.5, False),
    ]  # fmt: skip
    assert [pair.difference for pair in pairs] == [math.inf, math.inf, pytest.approx(1 / 3)]


def test_the_line_of_a_step(tmp_path: Path) -> None:
    """Of training, whatever is torn or evaluated beside it."""
    lines = [
        {"format": 1, "step": 1, "time": 5.0, "split": "train", "loss": 3.0},
        {"format": 1, "step": 2, "time": 6.0, "split": "eval", "loss": 4.0},
        {"format": 1, "step": 2, "time": 7.0, "split": "train", "loss": None, "nonfinite": {"loss": "inf"}},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "spl')
    assert line_of(path, 1) == {"loss": 3.0}
    assert line_of(path, 2) == {"loss": math.inf}
    assert line_of(path, 3) == {}
    assert line_of(tmp_path / "none.jsonl", 1) == {}


def test_samples_are_the_same_by_their_tokens(tmp_path: Path) -> None:
    """What a model said of them may differ by rounding on another layout."""
    ids = np.array([1, 2, 3], np.int32)
    for name, tokens, logprobs in (("kept", ids, [-1.0]), ("same", ids, [-1.01]), ("other", ids + 1, [-1.0])):
        save_file({"response_ids/values": tokens, "sampled_logprobs": np.array(logprobs)}, tmp_path / name)
    save_file({"sampled_logprobs": np.array([-1.0])}, tmp_path / "lacks")
    assert same_tokens(tmp_path / "kept", tmp_path / "same") is True
    assert same_tokens(tmp_path / "kept", tmp_path / "other") is False
    assert same_tokens(tmp_path / "kept", tmp_path / "lacks") is False
    assert same_tokens(tmp_path / "none", tmp_path / "same") is None
    (tmp_path / "damaged").write_bytes(b"no tensors")
    for pair in (("damaged", "same"), ("kept", "damaged"), ("kept", "none")):
        assert same_tokens(*(tmp_path / name for name in pair)) is None, pair


def test_what_is_told() -> None:
    def told(logged: dict[str, float], same_samples: bool | None = None) -> tuple[bool, list[str]]:
        pairs = compare(logged, {"loss": 1.5, "kl": 0.25}, 0.0) if logged else ()
        found = Replayed(Path("/runs/a"), 7, 4, pairs, same_samples, True, 0.0, Path("/runs/a-replay-7"))
        assert json.loads(json.dumps(found.as_json(), allow_nan=False))["equal"] is found.equal
        return found.equal, list(said(found))

    equal, lines = told({"loss": 1.5, "kl": 0.25})
    assert equal
    assert lines[0] == "step 7 of /runs/a, from the checkpoint of step 4"
    assert lines[-2] == "equal: all 2 metrics, bit for bit (the run's own layout)"
    equal, lines = told({"loss": 1.0, "kl": 0.25}, same_samples=False)
    assert not equal
    assert "loss         1   1.5  differs by 0.33" in lines
    assert lines[-3] == "its samples are NOT those that the run kept"
    assert lines[-2] == "1 of 2 metrics differ (the run's own layout, compared bit for bit)"
    equal, lines = told({}, same_samples=True)
    assert equal
    assert lines[1:3] == [
        "its samples are those that the run kept",
        "the run has logged nothing of this step; here it did not fail",
    ]
