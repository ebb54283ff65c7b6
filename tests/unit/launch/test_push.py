"""`distft export --push`, to a hub on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.common.sums import write_sums
from distft.launch.push import require_repository
from tests.harness.hub import TOKEN, hub


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run's, as far as an export of its result looks at it."""
    final = tmp_path / "run" / "final"
    (final / "adapter").mkdir(parents=True)
    for name, content in {
        "config.json": b"{}",
        "model.safetensors": bytes(range(200)),
        "adapter/a.json": b"{}",
    }.items():
        (final / name).write_bytes(content)
    write_sums(final)
    return tmp_path / "run"


def export(run_dir: Path, address: str, **environment: str) -> tuple[int, str, Path]:
    out = run_dir.parent / "out"
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "HF_TOKEN": TOKEN, **environment}
    done = subprocess.run(
        [sys.executable, "-m", "distft.cli", "export", str(run_dir), str(out), "--push", "me/my-model"],
        env=env, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr, out


def test_all_files_are_in_a_private_repository(run_dir: Path) -> None:
    with hub() as there:
        status, said, out = export(run_dir, there.address)
        assert status == 0, said
        assert f"pushed to {there.address}/me/my-model" in said
    assert TOKEN not in said
    assert there.private == {"me/my-model"}
    written = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert there.files == {"me/my-model": written}
    assert written.keys() == {"config.json", "model.safetensors", "adapter/a.json", "SHA256SUMS"}


def test_what_the_hub_refuses_stays_in_the_folder(run_dir: Path) -> None:
    with hub(full=True) as there:
        status, said, out = export(run_dir, there.address)
    assert status == 2, said
    assert "no room for more" in said
    assert f"hf upload me/my-model {out}" in said
    assert (out / "model.safetensors").is_file()


def test_nothing_is_written_where_it_could_not_be_pushed(run_dir: Path) -> None:
    with hub() as there:
        status, said, out = export(run_dir, there.address, HF_TOKEN="hf_of_nobody")
    assert (status, out.exists()) == (2, False), said
    assert "hf auth login" in said
    assert there.files == {}


@pytest.mark.parametrize(("name", "environment", "says"), [
    ("my-model", {}, "owner/name"),
    ("me/my model", {}, "owner/name"),
    ("me/my-model", {"HF_HUB_OFFLINE": "1"}, "unset HF_HUB_OFFLINE"),
    ("me/my-model", {"HF_TOKEN": ""}, "hf auth login"),
])  # fmt: skip
def test_what_is_wrong_here_is_said_before_the_hub_is_asked(
    monkeypatch: pytest.MonkeyPatch, name: str, environment: dict[str, str], says: str
) -> None:
    for key, value in {"HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, **environment}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match=says):
        require_repository(name)


def test_a_hub_that_does_not_answer_is_told_from_one_that_refuses(run_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        status, said, out = export(run_dir, address)
    assert (status, out.exists()) == (3, False), said
    assert "the hub does not answer" in said
