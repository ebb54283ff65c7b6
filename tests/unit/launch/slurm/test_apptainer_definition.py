"""The shipped Apptainer definition: as far as it can be looked at where no image can be built."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from distft import __version__

SHELL = ("post", "environment", "runscript", "test")


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "slurm" / "distft.def").read_text()


def sections(text: str) -> dict[str, str]:
    _, *parts = re.split(r"^%(\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_its_shell_is_sound(text: str, tmp_path: Path) -> None:
    for name in SHELL:
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\n{sections(text)[name]}")
        subprocess.run(["sh", "-n", script], check=True)
        if shutil.which("shellcheck"):
            found = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
            assert found.returncode == 0, found.stdout


def test_every_argument_has_a_value_and_is_used(text: str) -> None:
    arguments = dict(line.strip().split("=", 1) for line in sections(text)["arguments"].strip().splitlines())
    assert set(re.findall(r"{{ (\w+) }}", text)) == set(arguments)
    assert arguments["wheel"] == f"dist/distft-{__version__}-py3-none-any.whl"
    assert arguments["wheel"] in text.split("Bootstrap")[0], "as the command at its top has it"


def test_what_the_batch_script_starts_is_on_its_path(text: str) -> None:
    """`python` in the container, which the virtual environment has."""
    assert "python3 -m venv /opt/venv" in sections(text)["post"]
    assert 'PATH="/opt/venv/bin:$PATH"' in sections(text)["environment"]
