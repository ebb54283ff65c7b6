"""The start of a private cluster: tried twice, and nothing left of a try that failed."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path

import pytest
import ray

from distft.common.errors import EnvironmentFallsShort
from distft.launch.on_ray import cluster as ray_cluster
from distft.launch.on_ray.cluster import Cluster, connect


class Starts:
    """Stands for Ray's start: fails so many times; each try leaves a log in its folder."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.folders: list[Path] = []

    def __call__(self, folder: Path, *_: object) -> tuple[str, int]:
        self.folders.append(folder)
        logs = folder / "r" / "session_latest" / "logs"
        logs.mkdir(parents=True)
        (logs / "raylet.out").write_text(f"try {len(self.folders)}")
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(folder / "token")
        if len(self.folders) <= self.failures:
            raise EnvironmentFallsShort("Ray does not start: timed out", where="local Ray")
        return "127.0.0.1", -1


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_cluster, "_connected", lambda private: Cluster("a", "127.0.0.1", private))


def test_a_start_that_fails_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").mkdir()
    starts = Starts(1)
    monkeypatch.setattr(ray_cluster, "_start", starts)
    with connect(num_cpus=1, run_dir=tmp_path):
        first, second = starts.folders
        assert not first.exists()
        assert (second / "token").exists()
    assert not second.exists()
    assert "Ray does not start: timed out; it is started once more" in caplog.text
    assert (tmp_path / "logs" / "ray" / "raylet.out").read_text() == "try 1", "what went wrong is kept"


def test_not_a_third_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    starts = Starts(2)
    monkeypatch.setattr(ray_cluster, "_start", starts)
    with pytest.raises(EnvironmentFallsShort, match="Ray does not start"), connect(num_cpus=1, run_dir=tmp_path):
        pass
    assert len(starts.folders) == 2
    assert not any(folder.exists() for folder in starts.folders)
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


def test_what_fails_within_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = Starts(0)
    monkeypatch.setattr(ray_cluster, "_start", starts)
    with pytest.raises(EnvironmentFallsShort, match="of the run"), connect(num_cpus=1):
        raise EnvironmentFallsShort("of the run")
    assert len(starts.folders) == 1
    assert not starts.folders[0].exists()


class Held:
    """Stands for what holds a reference to one of Ray's objects."""

    itself: Held


@pytest.mark.parametrize("collecting", [True, False])
def test_nothing_is_collected_while_ray_is_left(monkeypatch: pytest.MonkeyPatch, collecting: bool) -> None:
    """What another thread finds then, when Ray's worker is half gone, ends the process."""
    held = Held()
    held.itself = held
    gone, seen = weakref.ref(held), []
    monkeypatch.setattr(ray, "shutdown", lambda: seen.append((gone() is None, gc.isenabled())))
    monkeypatch.setattr(ray_cluster, "_started", lambda *_: (None, ("127.0.0.1", -1)))
    monkeypatch.setattr(ray_cluster, "_refuse_strangers", lambda *_: None)
    was = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        with connect(num_cpus=1, num_gpus=0):
            del held
        assert seen == [(True, False)]
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if was else gc.disable)()
