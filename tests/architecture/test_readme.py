"""Every command in the README is one that the program takes; every path it names is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from distft.arguments import parse
from distft.cli import main
from distft.config.load import load_recipe, shipped_recipes

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
LINES = [line.split("  #")[0].strip() for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
COMMANDS = [part.strip() for line in LINES for part in line.split("&&") if part.strip().startswith("distft ")]


def test_the_first_two_blocks_are_install_and_test() -> None:
    assert LINES[0].endswith("pip install . && distft quickstart")
    assert LINES[1] == "tests/run"
    assert (ROOT / "tests" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_taken(command: str) -> None:
    parsed = parse(shlex.split(command)[1:])
    if getattr(parsed, "recipe", None) and "{task}" not in command:  # filled in for each job of an array
        assert load_recipe(parsed.recipe, parsed.overrides).name


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("distft plan ")])
def test_plans_are_drawn(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One may say that nothing fits (2), none may fail; a cluster that runs elsewhere cannot be asked here."""
    if "ray-existing" not in command:
        assert main(shlex.split(command)[1:]) in (0, 2)
        assert "memory of one rank" in capsys.readouterr().out


def test_all_verbs_are_shown() -> None:
    shown = {shlex.split(command)[1] for command in COMMANDS}
    assert shown == {
        "quickstart", "recipes", "plan", "train", "export", "submit", "status", "logs", "cancel", "doctor",
    }  # fmt: skip


def test_the_recipe_shown_is_valid(tmp_path: Path) -> None:
    shown = [block for kind, block in BLOCKS if kind == "yaml"]
    assert len(shown) == 1
    path = tmp_path / "my-dpo.yaml"
    path.write_text(shown[0])
    assert load_recipe(str(path)).algorithm.kind == yaml.safe_load(shown[0])["algorithm"]["kind"]


def test_every_shipped_recipe_is_named() -> None:
    names = [name for name, _ in shipped_recipes()]
    assert names
    for name in names:
        assert f"`{name}`" in README


def test_files_named_are_there() -> None:
    named = re.findall(r"`((?:tests|distft|launchers|cluster_configs)/[\w./*-]+)`", README)
    assert named
    for path in named:
        assert path == "tests/run" or list(ROOT.glob(path)), path
