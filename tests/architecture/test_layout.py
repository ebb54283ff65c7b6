"""The house keeps its shape: rooms, doors, and nothing personal left lying about."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ALLOWED_AT_TOP = {
    "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "MANIFEST.in",
    "launchers", "cluster_configs", "slurm", "tests", "distft",
    ".gitignore", ".gitattributes", ".pre-commit-config.yaml", ".ci", ".github",
}  # fmt: skip
PACKAGES = {
    "config", "recipes", "planning", "launch", "doctor", "calibration", "clients", "groups", "workers", "rollout",
    "experience", "algorithms", "engine", "models", "data", "controller", "checkpoint", "evaluation", "tracking",
    "verbs", "common", "report",
}  # fmt: skip
TEST_FOLDERS = {"unit", "ray", "e2e", "cluster", "gpu", "architecture", "benchmarks", "reference", "harness"}
LONG_FILE, LONG_FUNCTION = 300, 60


@pytest.fixture(scope="module")
def files(root: Path) -> list[Path]:
    """Every file that is, or is about to be, part of the repository; relative paths."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs to the repository is unknown")
    return [Path(name) for name in sorted(set(listed.stdout.splitlines())) if (root / name).is_file()]


def test_top_level_is_fixed(files: list[Path]) -> None:
    assert {path.parts[0] for path in files} - ALLOWED_AT_TOP == set()


def test_packages_and_test_folders_are_the_known_ones(files: list[Path]) -> None:
    # Data that travels in the wheel may lie in folders without Python files.
    packages = {
        path.parts[1] for path in files if path.parts[0] == "distft" and len(path.parts) > 2 and path.suffix == ".py"
    }
    assert packages - PACKAGES == set()
    assert {path.parts[1] for path in files if path.parts[0] == "tests" and len(path.parts) > 2} - TEST_FOLDERS == set()


def test_every_package_travels_in_the_wheel(files: list[Path], root: Path) -> None:
    """pyproject.toml lists the packages one by one: one left out would be missing from the wheel only."""
    with (root / "pyproject.toml").open("rb") as file:
        listed = set(tomllib.load(file)["tool"]["setuptools"]["packages"])
    packages = {".".join(path.parent.parts) for path in files if path.parts[0] == "distft" and path.suffix == ".py"}
    assert packages - listed == set()


def test_no_utils(files: list[Path]) -> None:
    vague = {"utils", "util", "helpers", "misc", "helper"}
    assert [path for path in files if vague & {part.split(".")[0] for part in path.parts}] == []


def test_init_files_are_nearly_empty(files: list[Path], root: Path) -> None:
    """A docstring, at the package's root its version besides: importing a package must cost nothing."""
    for path in files:
        if path.name == "__init__.py":
            body = ast.parse((root / path).read_text(encoding="utf-8")).body
            if path.parts[0] == "distft":
                assert ast.get_docstring(ast.Module(body, [])), f"{path} does not say what its package is"
            code = [node for node in body if not isinstance(node, ast.Expr)]
            assert all(isinstance(node, ast.Assign) for node in code), f"{path} does more than describe itself"
            assert len(code) <= 1, f"{path} does more than describe itself"


def test_unit_tests_mirror_the_package(files: list[Path], root: Path) -> None:
    """tests/unit/<package>/ only for packages that are there."""
    folders = {path.parts[2] for path in files if path.parts[:2] == ("tests", "unit") and len(path.parts) > 3}
    own = {"reference"}  # the references have tests of their own
    assert {name for name in folders - own if not (root / "distft" / name).is_dir()} == set()


def test_nothing_names_this_machine(files: list[Path], root: Path) -> None:
    """No path of the machine it was written on, no host of its package index."""
    personal = {str(root) + "/", str(Path.home()) + "/"} - {"//"}
    for variable in (
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "UV_INDEX_URL",
        "UV_DEFAULT_INDEX",
        "HTTPS_PROXY",
        "HF_ENDPOINT",
    ):
        personal.update(re.findall(r"https?://(?:[^@/\s]*@)?([^/:\s]+)", os.environ.get(variable, "")))
    personal -= {"localhost", "127.0.0.1"}
    for path in files:
        content = (root / path).read_bytes().decode("utf-8", "ignore")
        assert [name for name in personal if name in content] == [], f"{path} names this machine"


def test_sizes(files: list[Path], root: Path) -> None:
    """Long files and functions are printed (pytest -rP): a smell. What no one can read at one sitting fails."""
    smells = []
    for path in files:
        if path.parts[0] != "distft" or path.suffix != ".py":
            continue
        text = (root / path).read_text(encoding="utf-8")
        num_lines = text.count("\n")
        if num_lines > LONG_FILE:
            smells.append(f"{num_lines:5} lines  {path}")
        assert num_lines <= 3 * LONG_FILE, f"{path} has {num_lines} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONG_FUNCTION:
                    smells.append(f"{length:5} lines  {path}:{node.lineno} {node.name}")
                assert length <= 3 * LONG_FUNCTION, f"{path}:{node.lineno} {node.name} has {length} lines"
    print("\n".join(["longer than they should be:", *smells]))
