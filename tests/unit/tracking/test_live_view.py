"""The live view: what is on the screen, at the widths that terminals have, and that it gives the terminal back."""

from __future__ import annotations

import io
import logging as standard
import re
import sys
import time

import pytest
from rich.console import Console

from distft.tracking.display import make_progress
from distft.tracking.live_view import SEEN, LiveProgress, _Shown, sparkline
from distft.tracking.progress import GroupState


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(width: int, encoding: str = "utf-8") -> list[str]:
    """The lines of a PPO run in its twelfth step."""
    live = LiveProgress("ppo-tiny", Terminal())
    try:
        live.watch(lambda: {
            "policy": GroupState(2, "training", time.monotonic() - 12),
            "reference": GroupState(2, "asleep"),
            "reward": GroupState(1, "idle"),
        })  # fmt: skip
        live.phase("update")
        for step in range(1, 13):
            numbers = {"objective/scores": step / 10, "objective/kl": 0.5, "perf/tokens_per_second": 1234.5}
            live.step(step, 30, numbers)
        live.alarm(
            "alarm at step 12: kl_spike: the KL rose from 0.5 to 9.1 in a few steps; take a smaller learning_rate"
        )
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        Console(file=out, width=width, force_terminal=True, color_system=None).print(live._shown)
        out.seek(0)
        return out.read().splitlines()
    finally:
        live.close()


@pytest.mark.parametrize("width", [80, 160])
def test_everything_is_there_and_nothing_is_wider_than_the_terminal(width: int) -> None:
    lines = screen(width)
    assert max(map(len, lines)) <= width
    assert lines[0].split()[:2] == ["ppo-tiny", "update"]
    assert "12/30" in lines[0]
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["policy", "2", "ranks", "training"], ["reference", "2", "ranks", "asleep"], ["reward", "1", "rank", "idle"],
    ]  # fmt: skip
    assert "12 s" in lines[1]
    labels = ("score", "kl ", "tokens/s")
    numbers = [line[line.index(label) :].split() for label in labels for line in lines[1:-1] if label in line]
    assert numbers == [["score", "1.2", "▁▂▂▃▄▄▅▅▆▇▇█"], ["kl", "0.5", "▁" * 12], ["tokens/s", "1,234", "▁" * 12]]
    assert len(lines) == (1 + 3 + 3 + 1 if width == 80 else 1 + 3 + 1), "wide terminals show them beside each other"
    assert lines[-1].startswith("alarm at step 12: kl_spike")
    assert lines[-1].rstrip().endswith("…") is (width == 80)


@pytest.mark.parametrize(("width", "phase"), [
    (110, "evaluation: 256 of 300 eval rows"), (80, "evaluation: 256 of 300 eval rows"),
    (60, "evaluation: 256 of 300…"), (40, "ev…"),
])  # fmt: skip
def test_what_is_said_of_the_run_is_one_line(width: int, phase: str) -> None:
    """The bar gives way first, then the end of the phase."""
    out = io.StringIO()
    shown = _Shown("sft-tiny", "evaluation: 256 of 300 eval rows", 20, 60, left=7.0)
    Console(file=out, width=width, color_system=None).print(shown)
    [line] = out.getvalue().splitlines()
    name, said, bar, step, left = re.split(" {2,}", line.rstrip())
    assert (name, said, step, left) == ("sft-tiny", phase, "20/60", "7 s left")
    assert not set(bar) - set("━╸")
    assert len(line.rstrip()) == min(width, 85)


def test_before_there_are_groups_or_numbers_it_is_one_line() -> None:
    live = LiveProgress("a", Terminal())
    live.phase("starting workers")
    live.close()
    for width in (80, 160):
        out = io.StringIO()
        Console(file=out, width=width).print(live._shown)
        [line] = out.getvalue().splitlines()
        assert line.rstrip().endswith("━"), "no step yet, and not known of how many"


def test_a_terminal_without_blocks_gets_plain_letters() -> None:
    lines = screen(80, "ascii")
    assert all(line.isascii() for line in lines[1:-1])
    assert "_..-==++*%%#" in "".join(lines)


def test_sparklines_reach_from_the_least_to_the_greatest() -> None:
    assert sparkline([0.0, 1.0, 0.5]) == "▁█▅"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([1.0, float("nan"), float("inf"), 3.0]) == "▁  █"
    assert sparkline([]) == ""


class Closed(Terminal):
    """A terminal whose window was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0

    def write(self, text: str) -> int:
        self.refused += 1
        raise OSError(5, "Input/output error")


def test_a_closed_terminal_does_not_stop_the_run() -> None:
    out = Closed()
    with LiveProgress("a", out) as live:
        live.phase("update")
        live.step(1, 2, {"loss": 1.0})
        live.note("checkpoint of step 1")
        live.alarm("alarm")
        live._live.refresh()
    assert out.refused > 3


def test_only_the_last_steps_are_drawn() -> None:
    live = LiveProgress("a", Terminal())
    for step in range(1, 1000):
        live.step(step, None, {"loss": float(step)})
    live.close()
    assert list(live._shown.courses["loss"]) == [float(step) for step in range(1000 - SEEN, 1000)]


def test_live_shows_the_numbers_and_gives_the_terminal_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    out = Terminal()

    def failing_run() -> None:
        with make_progress("dpo-tiny", stream=out) as progress:
            progress.phase("update")
            progress.step(2, 5, {"loss": 0.6931, "note": 1.0})
            progress.held_out(2, {"accuracy": 0.75})
            progress.note("checkpoint of step 2")
            raise KeyError("x")

    with pytest.raises(KeyError):
        failing_run()
    text = out.getvalue()
    assert "dpo-tiny" in text
    assert "2/5" in text
    assert re.search(r"loss +0\.6931", text)
    assert "held out after step 2: accuracy 0.75" in text
    assert "checkpoint of step 2" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is shown again


def test_log_lines_go_through_a_live_display(monkeypatch: pytest.MonkeyPatch) -> None:
    from distft.common import logging

    level = standard.getLogger().level
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    plain_stderr = sys.stderr
    out = Terminal()
    logging.configure(None, terminal=True)
    try:
        with make_progress("a", stream=out):
            standard.getLogger("x").warning("from the log")
    finally:
        logging.configure(None)
        standard.captureWarnings(False)
        standard.getLogger().setLevel(level)
    assert "from the log" in out.getvalue()
    assert isinstance(plain_stderr, Terminal)
    assert "from the log" not in plain_stderr.getvalue()
