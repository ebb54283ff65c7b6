"""The paths in RUN/recipe.yaml mean the same from any folder, and after a move."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from distft.common.errors import UserError
from distft.config.load import load_recipe, resolve_path
from distft.config.roles import model_of
from distft.launch.kept_paths import found_again
from distft.launch.run_folder import require_same_run, write_recipe
from distft.tracking.metrics import RECIPE
from tests.unit.launch.examples import model_folder

WORDS = [
    "models.policy.path=run:runs/sft", "models.reference.path=models/base", "models.reference.differs=true",
    "models.policy.extend_vocabulary=words.txt",
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a finished run, a model, and a run folder that began from both."""
    place = tmp_path / "here"
    model_folder(place / "runs" / "sft" / "final")
    model_folder(place / "models" / "base")
    (place / "words.txt").write_text("a cat\n")
    monkeypatch.chdir(place)
    (place / "runs" / "dpo" / "final").mkdir(parents=True)
    write_recipe(load_recipe("dpo-tiny", WORDS), place / "runs" / "dpo")
    return place


def starts(run_dir: Path) -> dict[str, str]:
    """Where the models of a kept recipe are found."""
    recipe = found_again(load_recipe(str(run_dir / RECIPE)), run_dir)
    return {role: resolve_path(str(model_of(recipe, role).path)) for role in ("policy", "reference")}


def test_from_another_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    found = starts(place / "runs" / "dpo")
    assert found == {"policy": str(place / "runs/sft/final"), "reference": str(place / "models/base")}
    kept = yaml.safe_load((place / "runs" / "dpo" / RECIPE).read_text())
    assert kept["data"]["train"][0]["path"].startswith("builtin:")
    assert kept["models"]["policy"]["extend_vocabulary"] == str(place / "words.txt")


def test_after_a_move_what_lies_beside_is_taken(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    moved = Path(shutil.move(place, tmp_path / "there"))
    found = starts(moved / "runs" / "dpo")
    assert found == {"policy": str(moved / "runs/sft/final"), "reference": str(moved / "models/base")}


def test_relative_paths_that_an_older_version_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "runs" / "dpo" / RECIPE
    path.write_text(path.read_text().replace(f"{place}/", ""))
    monkeypatch.chdir("/")
    found = starts(place / "runs" / "dpo")
    assert found == {"policy": str(place / "runs/sft/final"), "reference": str(place / "models/base")}


def test_the_same_command_is_the_same_run_before_and_after_a_move(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_same_run(load_recipe("dpo-tiny", WORDS), place / "runs" / "dpo")
    require_same_run(load_recipe(str(place / "runs" / "dpo" / RECIPE)), place / "runs" / "dpo")
    moved = Path(shutil.move(place, tmp_path / "there"))
    monkeypatch.chdir(moved)
    require_same_run(load_recipe("dpo-tiny", WORDS), moved / "runs" / "dpo")
    with pytest.raises(UserError, match=r"models\.policy\.path: run:.* there, run:runs/other now"):
        require_same_run(load_recipe("dpo-tiny", ["models.policy.path=run:runs/other", *WORDS[1:]]), moved / "runs/dpo")
