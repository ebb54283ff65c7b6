from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from distft.tracking import environment
from distft.tracking.environment import commit, write_environment


def test_versions_job_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    content = write_environment(tmp_path, {"accelerators": ["cpu"]})
    assert json.loads((tmp_path / "environment.json").read_text()) == content
    assert content["format"] == 1
    assert content["packages"]["torch"] == importlib.metadata.version("torch")
    assert "flash-attn-none" not in content["packages"]
    assert content["job"]["SLURM_JOB_ID"] == "4711"
    assert content["python"] == sys.version.split()[0]
    assert content["memory_bytes"] > 10**8
    assert content["accelerators"] == ["cpu"]


def test_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "RAY_AUTH_TOKEN", "SLURM_JWT", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hunter2hunter2")
    monkeypatch.setattr(sys, "argv", ["distft", "--key=hunter2hunter2"])
    write_environment(tmp_path)
    assert "hunter2" not in (tmp_path / "environment.json").read_text()


def test_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "distft" / "tracking" / "environment.py"
    source.parent.mkdir(parents=True)
    source.write_text("# source\n")
    monkeypatch.setattr(environment, "__file__", str(source))

    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.hooksPath=/dev/null"]
        return subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True,
                              text=True).stdout.strip()  # fmt: skip

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    assert commit() == {"id": git("rev-parse", "HEAD"), "modified": False}
    source.write_text("# changed\n")
    assert commit() == {"id": git("rev-parse", "HEAD"), "modified": True}


def test_no_commit_without_checkout_or_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "a" / "b" / "environment.py"))
    assert commit() is None
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_nothing_heavy_is_imported() -> None:
    code = ("import sys, distft.tracking.tracker, distft.tracking.environment, distft.tracking.exit,"
            " distft.tracking.timing, distft.checkpoint.coordinator, distft.checkpoint.lease;"
            "print([m for m in ('torch', 'wandb', 'ray', 'transformers') if m in sys.modules])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
