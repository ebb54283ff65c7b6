from __future__ import annotations

import io
import logging
import re
import time

import pytest

from distft.tracking.display import make_progress
from distft.tracking.live_view import LiveProgress
from distft.tracking.progress import (
    LoggedProgress,
    PlainProgress,
    QuietProgress,
    duration,
    headlines,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A pipe whose other end is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []

    def write(self, text: str) -> int:
        self.refused.append(text)
        raise BrokenPipeError


def test_which_one() -> None:
    with make_progress("a", quiet=True, stream=Terminal()) as quiet:
        assert type(quiet) is QuietProgress
    with make_progress("a", stream=io.StringIO()) as plain:
        assert type(plain) is PlainProgress
    with make_progress("a", stream=Terminal()) as live:
        assert type(live) is LiveProgress


def test_quiet_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with make_progress("a", quiet=True) as progress:
        progress.phase("rollout")
        progress.step(1, 3, {"loss": 1.0})
    assert capsys.readouterr() == ("", "")


def test_what_is_shown_is_kept_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    out = io.StringIO()
    with caplog.at_level(logging.INFO), LoggedProgress(PlainProgress("a", out)) as progress:
        progress.phase("loading data")
        progress.step(1, 3, {"loss": 1.0})
        progress.held_out(1, {"loss": 2.0})
        progress.alarm("alarm at step 1: planted")
    told = [line.partition(" a: ")[2] for line in out.getvalue().splitlines()]
    assert told == ["loading data", "step 1/3  loss 1", "held out after step 1: loss 2", "alarm at step 1: planted"]
    assert caplog.messages == told[1:], "phases are stages of the log"


STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
METRICS = {"objective/scores": 0.25, "objective/kl": 0.01, "loss/policy_avg": -0.5, "grad_norm": 1.0,
           "perf/tokens_per_second": 1234.4}  # fmt: skip


def test_plain_lines_have_the_time_and_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with make_progress("ppo-tiny", stream=out) as progress:
        progress.phase("start groups")
        for step in (51, 52):  # resumed: the pace counts only what this process did
            now[0] += 10.0
            progress.phase("rollout")
            progress.step(step, 60, METRICS)
    lines = out.getvalue().splitlines()
    assert all(STAMP.match(line) for line in lines)
    assert [STAMP.sub("", line) for line in lines] == [
        "ppo-tiny: start groups",
        "ppo-tiny: rollout",
        "ppo-tiny: step 51/60  score 0.25  kl 0.01  loss -0.5  1,234 tokens/s",
        "ppo-tiny: step 52/60  score 0.25  kl 0.01  loss -0.5  1,234 tokens/s  80 s left",
    ]


def test_plain_is_a_line_in_ten_seconds_however_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 steps of a tenth of a second: a line in ten seconds, the first and the last; what matters is said."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    total = 100_000
    with make_progress("sft", stream=out) as progress:
        for step in range(1, total + 1):
            now[0] += 0.1
            progress.step(step, total, {"loss": 1.0})
            if step == 5:
                progress.held_out(step, {"loss": 0.5, "perplexity": 1.65})
                progress.note("checkpoint of step 5")
    lines = [STAMP.sub("", line) for line in out.getvalue().splitlines()]
    assert lines[0].startswith("sft: step 1/100000  loss 1")
    assert lines[1:3] == ["sft: held out after step 5: loss 0.5  perplexity 1.65", "sft: checkpoint of step 5"]
    assert lines[-1].startswith(f"sft: step {total}/{total} ")
    assert total / 100 <= len(lines) <= total / 100 + 5


def test_a_closed_pipe_does_not_stop_the_run() -> None:
    out = Gone()
    progress = PlainProgress("a", out)
    progress.phase("x")
    progress.step(1, None, {})
    # each was tried and given up, and the run went on
    assert [STAMP.sub("", text) for text in out.refused] == ["a: x", "a: step 1"]


def test_headlines_choose_three_and_never_one_twice() -> None:
    assert headlines({"reward": 1.0, "kl": 0.5, "objective/kl": 0.25, "loss": 2.0, "accuracy": 0.5}) == [
        "reward 1", "kl 0.25", "loss 2"]  # fmt: skip
    assert headlines({"grad_norm": 1.0}) == []


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (100, "2 min"), (5400, "1 h 30 min"),
                                               (90_000, "25 h 00 min")])  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
