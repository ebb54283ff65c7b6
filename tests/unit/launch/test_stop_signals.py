"""Signals that ask a run to stop."""

from __future__ import annotations

import ctypes
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from distft.launch.stop_signals import stop_on_signal


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Whoever started the tests may have had them ignore a closed terminal (nohup), which a run respects."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_asks_for_a_stop_in_order_and_handlers_are_given_back(number: signal.Signals) -> None:
    former = signal.getsignal(number)
    with stop_on_signal() as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
    assert signal.getsignal(number) == former


def test_a_second_press_ends_it_at_once() -> None:
    with stop_on_signal():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            signal.raise_signal(signal.SIGTERM)


def test_a_second_press_while_the_main_thread_is_in_c_code_ends_it_at_once() -> None:
    """Python calls the handler when it comes back from there, once for both."""

    def press_twice() -> None:
        for _ in range(2):
            time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)

    with stop_on_signal():
        pressing = threading.Thread(target=press_twice)
        pressing.start()  # who takes the signals, as the main thread does not
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            with pytest.raises(KeyboardInterrupt, match="SIGINT"):
                ctypes.CDLL(None).usleep(500_000)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            pressing.join()


def test_a_closed_terminal_hangs_up_more_than_once_and_means_one_stop() -> None:
    with stop_on_signal() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert stop.is_set()


def test_nohup_stays_nohup() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, former)


def _hang_up_once_more_at_each_line(frame: FrameType, event: str, _argument: object) -> Callable[..., Any] | None:
    if event == "line" and not frame.f_code.co_filename.endswith("signal.py"):
        signal.raise_signal(signal.SIGHUP)
    return _hang_up_once_more_at_each_line


def test_a_hang_up_is_heard_wherever_the_handler_of_the_one_before_it_is() -> None:
    """A lock that the handler holds would be waited for by its own second call: the run would hang for ever."""
    with stop_on_signal() as stop:
        former = sys.gettrace()
        sys.settrace(_hang_up_once_more_at_each_line)
        try:
            stop.set()
            signal.raise_signal(signal.SIGHUP)
        finally:
            sys.settrace(former)
        assert stop.is_set()


RUN = """
import sys, time
from distft.launch.stop_signals import stop_on_signal
with stop_on_signal() as stop:
    print("running", flush=True)
    while not stop.is_set():
        time.sleep(0.01)
    print("a step more", flush=True)
    print("and a word", file=sys.stderr, flush=True)
open(sys.argv[1], "w").write("checkpoint")
"""


EVALUATION = """
import sys, time
from pathlib import Path
from distft.common.errors import StoppedOnRequest
from distft.launch.kept_evaluation import kept_evaluation
def evaluate():
    print("running", flush=True)
    time.sleep(120)
try:
    kept_evaluation(Path(sys.argv[1]).parent / "judged", {"eval": ["no/such/model"]}, evaluate)
except StoppedOnRequest as stopped:
    print(stopped, flush=True)
    open(sys.argv[1], "w").write("checkpoint")
"""


@pytest.mark.parametrize("program", [RUN, EVALUATION], ids=["run", "evaluation"])
def test_on_a_terminal_that_is_closed_it_ends_in_order(program: str, tmp_path: Path) -> None:
    """A real terminal, whose end sends SIGHUP to the session's leader; every later write to it would be an error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "written")],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while not said.endswith(b"\n"):  # a line may come in parts, and the rest of one be an error once all is closed
        said += os.read(ours, 100)
    assert said == b"running\r\n"
    os.close(ours)
    process.send_signal(signal.SIGHUP)  # as the kernel does where the terminal is the session's own
    assert process.wait(30) == 0
    assert (tmp_path / "written").read_text() == "checkpoint"


def test_who_presses_once_is_answered_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with stop_on_signal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        assert "stopping after this step, with a checkpoint; again: at once" in capfd.readouterr().err
