"""The thread that hears a request to stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distft.common.errors import StoppedOnRequest
from distft.controller.stop_flag import StopFlag
from distft.launch import stop_listener
from distft.launch.stop_listener import stopped_by_request
from distft.tracking.exit import Ending
from distft.tracking.stop_request import (
    JOB,
    STOP,
    ask_to_stop,
    read_request,
)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_listener, "_EVERY_S", 0.02)
    for name in (JOB, "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A look of the thread at the folder each."""
    seen: list[Path] = []

    def looking(run_dir: Path) -> object:
        seen.append(run_dir)
        return read_request(run_dir)

    monkeypatch.setattr(stop_listener, "read_request", looking)
    return seen


def _until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_the_owner_that_is_meant_hears_it_and_the_request_goes_with_its_end(tmp_path: Path, looks: list[Path]) -> None:
    stop = StopFlag()
    with stopped_by_request(tmp_path, "mine", stop):
        assert _until(lambda: bool(looks))
        assert not stop.is_set()
        ask_to_stop(tmp_path, tokens=["mine"])
        assert _until(stop.is_set)
    assert not (tmp_path / STOP).exists(), "the same command goes on"


def test_a_request_for_somebody_else_is_not_heard(tmp_path: Path, looks: list[Path]) -> None:
    stop = StopFlag()
    ask_to_stop(tmp_path, tokens=["his"], jobs=["17"])
    with stopped_by_request(tmp_path, "mine", stop):
        assert _until(lambda: len(looks) > 1)
        assert not stop.is_set()


@pytest.mark.parametrize("variable", [JOB, "SLURM_JOB_ID"])
def test_a_job_that_was_still_to_start_hears_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "17")
    stop = StopFlag()
    ask_to_stop(tmp_path, jobs=["17"])
    with stopped_by_request(tmp_path, "mine", stop):
        assert _until(stop.is_set)


@pytest.mark.parametrize("meant", [True, False])
def test_what_was_cancelled_is_marked(tmp_path: Path, meant: bool) -> None:
    ask_to_stop(tmp_path, tokens=["mine" if meant else "his"])
    with pytest.raises(StoppedOnRequest) as caught, stopped_by_request(tmp_path, "mine", StopFlag()):
        raise StoppedOnRequest("stopped")
    assert Ending.of(caught.value).kind == ("cancelled" if meant else "stopped")


def test_at_once_interrupts_the_main_thread(tmp_path: Path) -> None:
    def interrupted(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(number)

    former = signal.signal(signal.SIGTERM, interrupted)
    try:
        with pytest.raises(KeyboardInterrupt), stopped_by_request(tmp_path, "mine", StopFlag()):  # noqa: PT012
            ask_to_stop(tmp_path, tokens=["mine"], now=True)
            time.sleep(60)
    finally:
        signal.signal(signal.SIGTERM, former)
