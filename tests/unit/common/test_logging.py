from __future__ import annotations

import logging as standard
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distft.common import logging


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    level = standard.getLogger().level
    yield
    logging.configure(None)
    standard.captureWarnings(False)
    standard.getLogger().setLevel(level)


def test_stage_is_logged_with_attempt_and_remembered(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "policy-0.log"
    logging.configure(path, process="policy-0", attempt=3)
    logging.stage("load\n weights")
    assert logging.current_stage() == "load weights"
    line = path.read_text().splitlines()[-1]
    assert line.endswith("INFO [attempt 3 policy-0] distft.stage: stage: load weights")


def test_last_stage_is_the_last_one_whatever_follows(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    logging.configure(path, process="value-1")
    logging.stage("first")
    logging.stage("update: backward")
    other = standard.getLogger("somebody")
    for number in range(3000):  # more than one block of the tail
        other.info("noise %d %s stage: not one of ours", number, "x" * 60)
    assert path.stat().st_size > 3 * 64 * 1024
    assert logging.last_stage(path) == "update: backward"


def test_last_stage_without_stage_or_file(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    path.write_text("backstage: nothing\n")
    assert logging.last_stage(path) == ""
    assert logging.last_stage(tmp_path / "missing.log") == ""


def test_configuring_again_moves_to_the_new_file(tmp_path: Path) -> None:
    logging.configure(tmp_path / "a.log", attempt=1)
    standard.getLogger("x").info("one")
    logging.configure(tmp_path / "b.log", attempt=2)
    standard.getLogger("x").info("two")
    assert "one" in (tmp_path / "a.log").read_text()
    assert "two" not in (tmp_path / "a.log").read_text()
    assert (tmp_path / "b.log").read_text().count("two") == 1


def test_a_worker_leaves_its_stacks_and_native_output_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from distft.common import logging\n"
        f"logging.configure(Path({str(path)!r}), process='reward-0', capture_output=True)\n"
        "def stuck_here():\n"
        "    os.kill(os.getpid(), signal.SIGUSR2)\n"
        "stuck_here()\n"
        "os.write(1, b'from C\\n')\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    text = path.read_text()
    assert done.returncode == -11
    assert "stuck_here" in text
    assert "from C" in text
    assert "Segmentation fault" in text


def test_a_full_disk_costs_lines_and_neither_who_logs_nor_who_closes(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure(Path("/dev/full"))
    standard.getLogger("distft").info("a line")
    logging.stage("another")
    logging.configure()
    assert capsys.readouterr().err == ""


def test_a_terminal_is_told_in_words_and_a_file_with_time_and_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.configure(tmp_path / "driver.log", attempt=3, terminal=True)
    standard.getLogger("distft.here").warning("only %d rows", 3)
    assert capsys.readouterr().err == "distft: warning: only 3 rows\n"
    assert (tmp_path / "driver.log").read_text().endswith("WARNING [attempt 3 driver] distft.here: only 3 rows\n")
