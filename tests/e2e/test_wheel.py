"""The wheel, installed alone: what a user without a checkout has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from distft.config.load import shipped_pipelines, shipped_recipes
from tests.e2e.conftest import SFT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
# What belongs to the wheel; built from a copy, so that no build folder of the checkout gets in.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "distft", "cluster_configs", "slurm")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """The ``bin`` of a new virtual environment with the wheel in it, and nothing else of its own.

    It finds the heavy packages where this Python has them: behind a .pth file, by which an editable install of the
    checkout over there does not count.
    """
    work = tmp_path_factory.mktemp("wheel")
    tree = work / "tree"
    for name in SOURCES:
        source, target = root / name, tree / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(work), str(tree)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = work.glob("distft-*.whl")

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(work / "venv")], check=True)
    shutil.rmtree(tree)
    python = work / "venv" / "bin" / "python"
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", "--no-index", "--ignore-installed", str(wheel)],
        check=True,
        capture_output=True,
        # The checkout's own metadata on the path would pass for an installed distft.
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    (site,) = (work / "venv").glob("lib/python*/site-packages")
    (site / "heavy.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def run(command: list[str], folder: Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs it in ``folder`` with nothing of the tests' environment that could lead to the checkout."""
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR", "LANG", "OMP_NUM_THREADS") if name in os.environ}
    environment = kept | {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def test_it_is_the_wheel_that_runs(installed: Path, tmp_path: Path) -> None:
    done = run([str(installed / "python"), "-c", "import distft; print(distft.__file__)"], tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(installed.parent), done.stdout + done.stderr


def test_the_login_node_verbs_work_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    distft = str(installed / "distft")
    assert "distft quickstart" in run([distft, "--help"], tmp_path).stdout
    recipes = run([distft, "recipes"], tmp_path)
    assert (recipes.returncode, recipes.stderr) == (0, "")
    assert [line.split()[0] for line in recipes.stdout.splitlines()] == [
        name for name, _ in [*shipped_recipes(), *shipped_pipelines()]
    ]
    for cluster in ("one-node-8xh100", "slurm-cpu"):
        plan = run([distft, "plan", "ppo-tiny", "--cluster", cluster, "--json"], tmp_path)
        assert plan.returncode == 0, plan.stderr
        assert json.loads(plan.stdout)["cluster"] == cluster
    assert run([distft, "train", "sft-tiny", "--dry-run"], tmp_path).returncode == 0
    submit = run([distft, "submit", "slurm", "ppo-tiny", "--cluster", "slurm-cpu", "--dry-run"], tmp_path)
    assert submit.returncode == 0, submit.stderr
    script = next(word for word in submit.stdout.split() if word.endswith("train.sbatch"))
    assert Path(script).is_file()
    assert Path(script).is_relative_to(installed.parent)
    assert run([distft, "plan", "nonsense"], tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_run_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """Its workers are the wheel's too, and it leaves nothing beside its run folder."""
    done = run([str(installed / "distft"), *SFT, "--json"], tmp_path, timeout_s=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    outcome = json.loads(done.stdout)
    assert outcome["model"] == str(tmp_path / "runs" / "sft-tiny" / "final")
    assert (Path(outcome["model"]) / "model.safetensors").is_file()
    assert set(outcome["before_after"]["loss"]) == {"before", "after"}
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.slow
def test_the_quickstart_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """SFT, reward model, PPO with four groups of two ranks, DPO; then once more, to be told that it is done."""
    distft = str(installed / "distft")
    done = run([distft, "quickstart"], tmp_path, timeout_s=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    stages = ("sft", "reward", "ppo", "dpo")
    for stage in stages:
        folder = tmp_path / "runs" / "quickstart" / stage
        assert (folder / "final" / "model.safetensors").is_file()
        assert json.loads((folder / "exit.json").read_text())["exit_status"] == 0
    table = done.stdout[done.stdout.index("held-out metric") :]
    again = run([distft, "quickstart"], tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already finished") == len(stages)
    assert table.split("\n\n")[0] in again.stdout, "the same table"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
