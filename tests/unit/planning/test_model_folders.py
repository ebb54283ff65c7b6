"""Where models lie on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.planning.model_folders import fetched_folder, local_folder
from tests.unit.launch.examples import LLAMA_8B, config_folder, model_folder


def test_hub_cache_is_found_by_its_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models--meta-llama--Tiny"
    snapshot = config_folder(repository / "snapshots" / "abc", LLAMA_8B)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc\n")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert local_folder("meta-llama/Tiny") == snapshot
    assert fetched_folder("meta-llama/Tiny") is None
    model_folder(snapshot)
    assert fetched_folder("meta-llama/Tiny") == snapshot
    assert local_folder("meta-llama/Other") is None
    assert local_folder("./meta-llama/Tiny") is None


def test_a_users_own_folder_is_taken_whole_or_not(tmp_path: Path) -> None:
    assert fetched_folder(str(config_folder(tmp_path / "m", LLAMA_8B))) == tmp_path / "m"
