"""What a method costs: the files of the house that the commit touches which adds it, tests and papers aside."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

# Method -> the most files: its section, its loss (and its way of assigning credit), a recipe.
ALLOWED = {"orpo": 3, "simpo": 3, "grpo": 4, "rloo": 4}


def files_of(root: Path, kind: str) -> list[str]:
    """The files under distft/ of the commit that added ``config/algorithms/<kind>.py``; none without its history."""
    added = _git(root, "log", "--diff-filter=A", "--format=%H", "--", f"distft/config/algorithms/{kind}.py").split()
    if not added:
        return []
    return _git(root, "show", "--format=", "--name-only", added[-1], "--", "distft").split()


@pytest.mark.parametrize(("kind", "most"), ALLOWED.items())
def test_a_method_is_a_few_files(root: Path, kind: str, most: int) -> None:
    found = files_of(root, kind)
    if not found:
        pytest.skip("the history of this checkout does not reach so far")
    assert len(found) <= most, found


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""
