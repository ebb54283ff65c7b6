"""Is what a job's processes run in where the cluster file says? As far as a login node sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.launch.slurm.container_checks import check, image_file
from tests.unit.launch.slurm.slurm_examples import everything


def container(image: str, runtime: str = "apptainer") -> Any:
    return everything(virtualenv=None, container={"runtime": runtime, "image": image})


@pytest.mark.parametrize(("image", "file"), [
    ("/images/a.sif", "/images/a.sif"), ("docker://registry.example/a:1", None), ("nvcr.io#nvidia/pytorch:25.01", None),
    ("ubuntu", None), ("library://me/a.sif", None), ("~/a.sif", "~/a.sif"), ("/sandbox/folder", "/sandbox/folder"),
    ("a.sqsh", "./a.sqsh"),
])  # fmt: skip
def test_an_image_is_a_file_or_a_reference(image: str, file: str | None) -> None:
    assert image_file(container(image)) == (Path(file).expanduser().absolute() if file else None)
    assert image_file(everything()) is None


def test_a_file_that_is_not_there_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "distft-1.sif").touch()
    check(container(str(tmp_path / "distft-1.sif")))
    with pytest.raises(UserError, match="container.image: there is no .*distft-2.sif\n  did you mean .*distft-1.sif"):
        check(container(str(tmp_path / "distft-2.sif")))
    with pytest.raises(UserError, match="container.image: there is no .*\n  .* has no lost"):
        check(container(str(tmp_path / "lost" / "distft-2.sif")))


def test_a_virtual_environment_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    with pytest.raises(UserError, match="virtualenv: there is no .*/venv/bin/python"):
        check(everything(virtualenv=str(tmp_path / "venv")))
    (tmp_path / "venv" / "bin" / "python").touch()
    check(everything(virtualenv=str(tmp_path / "venv")))


def test_what_only_nodes_may_have_is_left_to_the_job() -> None:
    check(container("/only-on-the-nodes/images/a.sif"))
    check(everything(virtualenv="/only-on-the-nodes/venv"))


@pytest.mark.parametrize("knows", [True, False])
def test_containers_by_slurm_need_its_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows: bool) -> None:
    srun = tmp_path / "srun"
    srun.write_text(f"#!/bin/sh\necho '      {'--container-image=IMAGE' if knows else '--mem=MB'}'\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    if knows:
        check(container("docker://a", "pyxis"))
    else:
        with pytest.raises(EnvironmentFallsShort, match="srun knows no --container-image"):
            check(container("docker://a", "pyxis"))
