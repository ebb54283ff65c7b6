"""Reward functions are found without running them."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.launch.preflight.named_code import check_named_code


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rewards.py").write_text(
        "from os.path import join as path_join\nraise RuntimeError('imported')\n"
        "def brevity(prompts, completions): ...\nlength = lambda prompts, completions: []\n"
    )
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("def top(prompts, completions): ...\n")
    (package / "deep.py").write_text("def bottom(prompts, completions): ...\n")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["my_rewards:brevity", "my_rewards:length", "my_rewards:path_join", "package:top", "package.deep:bottom"],
)
@pytest.mark.parametrize("files", [False, True])
def test_found(name: str, files: bool) -> None:
    check_named_code(name, files=files)


def test_an_environments_file_is_found() -> None:
    check_named_code("package/deep.py:bottom", files=True)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("my_rewards.py:brevity", "my_rewards:brevity"), ("package/deep.py:bottom", "package.deep:bottom")],
)
def test_a_reward_functions_file_is_not_and_its_module_is_said(name: str, meant: str) -> None:
    with pytest.raises(UserError, match="there is no module") as caught:
        check_named_code(name)
    assert caught.value.hint == f"did you mean {meant}?"
    check_named_code(meant)


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("my_reward:brevity", "there is no module my_reward", "did you mean my_rewards:brevity?"),
        ("nowhere.to_be:found", "there is no module nowhere.to_be", "nowhere/to_be.py"),
        ("my_rewards:brevty", "defines no brevty", "did you mean my_rewards:brevity?"),
        ("package:bottom", "defines no bottom", ""),
        ("package/depp.py:bottom", "there is no file package/depp.py", "did you mean package/deep.py:bottom?"),
        ("nowhere/at_all.py:Found", "there is no file nowhere/at_all.py", "beside the recipe and here"),
        ("package/deep.py:botom", "defines no botom", "did you mean package/deep.py:bottom?"),
    ],
)
def test_not_found(name: str, said: str, hint: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        check_named_code(name, files=True)
    assert hint in caught.value.hint


def test_syntax_errors_are_shown(here: Path) -> None:
    (here / "broken.py").write_text("def f(:\n")
    with pytest.raises(UserError, match="broken.py:1: cannot be read: invalid syntax"):
        check_named_code("broken:f")
