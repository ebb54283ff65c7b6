"""What lies beside the package in a checkout travels inside it in a wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

COPIED = ("pyproject.toml", "README.md", "LICENSE", "distft", "cluster_configs", "slurm")


def test_every_package_is_listed(root: Path) -> None:
    """The list in pyproject is written by hand, because two packages lie outside the folder."""
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(root).parts)
        for pattern in ("*.py", "*.yaml")
        for path in (root / "distft").rglob(pattern)
    }
    assert set(listed) == found | {"distft.cluster_configs", "distft.slurm"}


def committed(tree: Path) -> str:
    """The id of a commit of everything in the tree."""
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.hooksPath=/dev/null"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_a_built_wheel_has_the_cluster_files_and_the_batch_script_and_finds_them(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    tree, empty, site = tmp_path / "tree", tmp_path / "empty", tmp_path / "site"
    for folder in (tree, empty):
        folder.mkdir()
    for name in COPIED:
        source = root / name
        ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignored)
        else:
            shutil.copy(source, tree / name)
    commit = committed(tree)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(empty)], cwd=tree, check=True, capture_output=True)
    (wheel,) = empty.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        top = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"distft"}

    ask = (
        "import sys; sys.path.insert(0, sys.argv[1]); import distft; print(distft.__file__)\n"
        "from distft.config.cluster import load_cluster, shipped_clusters\n"
        "from distft.config.load import shipped_pipelines, shipped_recipes\n"
        "from distft.launch.slurm.options import batch_script\n"
        "print([load_cluster(name).name for name, _ in shipped_clusters()], end=' ')\n"
        "print(len(shipped_recipes()), len(shipped_pipelines()))\n"
        "print(batch_script())\n"
        "from distft.tracking.environment import commit; print(commit())"
    )
    done = subprocess.run([sys.executable, "-c", ask, str(site)], cwd=empty, check=True, capture_output=True, text=True)
    where, answer, script, built_from = done.stdout.splitlines()
    assert where.startswith(str(site))
    assert built_from == str({"id": commit, "modified": False})
    assert script.startswith(str(site))
    for name in ("train.sbatch", "distft.def"):
        assert Path(script).with_name(name).read_text() == (root / "slurm" / name).read_text()
    clusters = sorted(path.stem for path in (root / "cluster_configs").glob("*.yaml"))
    recipes = root / "distft" / "recipes"
    shipped = [len(list(folder.glob("*.yaml"))) for folder in (recipes, recipes / "pipelines")]
    assert answer == f"{clusters} {shipped[0]} {shipped[1]}"
