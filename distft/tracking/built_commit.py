"""The commit that a wheel is built from, written into it: ``pip install .`` leaves no other trace of it.

``BuildPy`` is setuptools' command (see ``cmdclass`` in pyproject.toml); it runs where nothing but setuptools is there.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from setuptools.command.build_py import build_py

FILE = "built_commit.json"


class BuildPy(build_py):  # type: ignore[misc]
    """Copies the packages, and says beside this file from which commit."""

    def run(self) -> None:
        """The command."""
        super().run()
        found = commit_of(Path.cwd())
        if found is not None and not self.editable_mode:
            path = Path(self.build_lib) / "distft" / "tracking" / FILE
            path.write_text(json.dumps(found) + "\n", encoding="utf-8")


def commit_of(root: Path) -> dict[str, Any] | None:
    """Commit of the checkout whose top ``root`` is, and whether files differ from it; None where it is no such top."""
    if _git(root, "rev-parse", "--show-toplevel") != str(root.resolve()):
        return None
    number = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"id": number, "modified": bool(changed)} if number else None


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
