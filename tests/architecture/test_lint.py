"""The checks of pre-commit, as tests: style, format, types, and who imports whom."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# The tools' console entries, run by this interpreter so that no PATH is trusted.
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"
CHECKS = {
    "ruff check": ["-m", "ruff", "check", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "."],
    "mypy": ["-m", "mypy"],
    "import-linter": ["-c", LINT_IMPORTS, "--no-cache"],
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_tool_finds_nothing(check: str, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, *CHECKS[check]], cwd=root, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{check}:\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
