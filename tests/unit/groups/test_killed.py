"""What a rank's log says of a rank that no server forked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distft.groups import killed
from distft.groups.killed import killed_by


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody writes later."""
    monkeypatch.setattr(killed, "_WRITTEN_S", 0.0)


def test_a_rank_that_crashed_is_told_by_its_stacks(tmp_path: Path) -> None:
    log = tmp_path / "policy-0.log"
    log.write_text("INFO attempt 1: policy rank 0 of 1, pid 77 on here (127.0.0.1)\n")
    code = (
        "import os, signal, sys; from pathlib import Path; from distft.common.logging import configure;"
        "configure(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGABRT)"
    )
    subprocess.run([sys.executable, "-c", code, str(log)], check=False)
    assert killed_by(str(log), 77) == "crashed with SIGABRT"


def test_a_crash_of_an_earlier_attempt_is_not_this_one(tmp_path: Path) -> None:
    log = tmp_path / "policy-0.log"
    begun = "INFO attempt {}: policy rank 0 of 1, pid {} on here (127.0.0.1)\n"
    log.write_text(f"{begun.format(1, 77)}Fatal Python error: Aborted\n{begun.format(2, 78)}INFO stage: update\n")
    assert killed_by(str(log), 78) == ""
    assert killed_by(str(tmp_path / "gone.log"), 78) == ""
