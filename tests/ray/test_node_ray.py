"""Ray on a node of a job: one that gives itself up as too slow is started once more, and nothing is left of either."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

import pytest
import ray

from distft.common.errors import EnvironmentFallsShort
from distft.launch.node.environment import RAY_SETTINGS
from distft.launch.node.network import Address
from distft.launch.node.node_ray import NodeRay
from distft.launch.on_ray.guard import processes_of
from distft.launch.on_ray.private import private_folder
from tests.ray.conftest import ROOT

pytestmark = pytest.mark.ray

# Stands before Ray on the path: fails as Ray does after its 30 s, as often as it is told to; then is Ray itself.
SLOW = """
import os, sys
left = int(open({count!r}).read())
if left:
    open({count!r}, "w").write(str(left - 1))
    sys.exit("Exception: The current node timed out during startup. This could happen because")
os.environ["PYTHONPATH"] = {root!r}
os.execv(sys.executable, [sys.executable, "-m", "ray.scripts.scripts", *sys.argv[1:]])
"""


@pytest.fixture
def node(tmp_path: Path) -> NodeRay:
    scripts = tmp_path / "ray" / "scripts"
    scripts.mkdir(parents=True)
    for package in (scripts.parent, scripts):
        (package / "__init__.py").touch()
    (scripts / "scripts.py").write_text(SLOW.format(count=str(tmp_path / "count"), root=str(ROOT)))
    folder = private_folder(None, secrets.token_hex(32))
    environment = {
        name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    }
    environment |= RAY_SETTINGS | {"RAY_AUTH_TOKEN_PATH": str(folder / "token"), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    return NodeRay(folder, environment, Address(ray.util.get_node_ip_address(), ""), 0)


def start(node: NodeRay, tmp_path: Path, failures: int, said: list[str]) -> str:
    (tmp_path / "count").write_text(str(failures))
    return node.start(
        None, cpus=1, gpus=0, memory=2**30, spill=None, deadline=time.monotonic() + 120, keep_on=lambda: None,
        say=said.append,
    )  # fmt: skip


def test_a_ray_that_gave_itself_up_is_started_once_more(
    node: NodeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    said: list[str] = []
    with node:
        assert start(node, tmp_path, 1, said).startswith(f"{node.ip}:")
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(str(node.folder))]
        assert any(b"raylet" in command for command in commands)
        assert not any(b"log_monitor" in command or b"monitor.py" in command for command in commands)
    assert len(said) == 1
    assert said[0].endswith("it is started once more")
    assert not processes_of(str(node.folder))
    assert not node.folder.exists()


def test_one_that_gives_itself_up_twice_is_an_error_with_its_words(node: NodeRay, tmp_path: Path) -> None:
    said: list[str] = []
    with node, pytest.raises(EnvironmentFallsShort, match="timed out during startup"):
        start(node, tmp_path, 2, said)
    assert len(said) == 1
    assert not node.folder.exists()
