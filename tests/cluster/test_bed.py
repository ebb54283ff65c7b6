"""The nodes of a bed are machines apart, and nothing stays behind of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import bed
from tests.cluster.bed import BedFailed, Nodes, remove_stale

pytestmark = pytest.mark.cluster

SERVE = """
import pathlib, socket, sys
server = socket.create_server(("", 7000))
pathlib.Path(sys.argv[1]).touch()
while True:
    connection, _ = server.accept()
    connection.sendall(socket.gethostname().encode())
    connection.close()
"""
ASK = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 7000), timeout=float(sys.argv[2]))
print(connection.recv(100).decode())
"""
# A bed whose owner is killed: prints what it has, and waits for that.
OWNER = """
import pathlib, sys, time
from tests.cluster.bed import Nodes
with Nodes(2, pathlib.Path(sys.argv[1])) as nodes:
    nodes[0].start(["sleep", "1000"])
    print(nodes.bridge, nodes.state, *[node.pid for node in nodes], flush=True)
    time.sleep(1000)
"""


def until(what: Callable[[], bool], timeout: float = 10.0) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + timeout
    while not what() and time.monotonic() < deadline:
        time.sleep(0.05)
    return what()


def links() -> str:
    return subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout


def test_processes_of_one_node_are_unknown_to_the_other(nodes: Nodes) -> None:
    marked = nodes[0].start(["sleep", "987654"])
    seen = "import pathlib; print(*[p.read_bytes() for p in pathlib.Path('/proc').glob('[0-9]*/cmdline')])"
    try:
        assert until(lambda: [p.host_pid for p in nodes[0].processes() if p.command == "sleep 987654"] == [marked.pid])
        assert not [p for p in nodes[1].processes() if "987654" in p.command]
        assert "987654" in nodes[0].run([sys.executable, "-c", seen]).stdout
        assert "987654" not in nodes[1].run([sys.executable, "-c", seen]).stdout
    finally:
        marked.terminate()
    assert marked.wait() == -signal.SIGTERM


def test_files_are_each_nodes_own_but_for_the_shared_folder(nodes: Nodes) -> None:
    for folder in ("/tmp", "/dev/shm", "/run"):
        mine = Path(folder, f"{nodes.bridge}-{os.getpid()}")
        nodes[0].run(["touch", mine])
        assert nodes[1].run(["test", "-e", mine], check=False).returncode == 1
        assert not mine.exists()
        nodes[0].run(["rm", mine])
    nodes[0].run(["sh", "-c", "hostname > ours"])
    assert nodes[1].run(["cat", nodes.folder / "ours"]).stdout == "n1\n"
    assert (nodes.folder / "ours").read_text() == "n1\n"


def test_ipc_and_host_names_are_each_nodes_own(nodes: Nodes) -> None:
    nodes[0].run(["ipcmk", "--queue"])
    assert "0x" in nodes[0].run(["ipcs", "--queues"]).stdout
    assert "0x" not in nodes[1].run(["ipcs", "--queues"]).stdout
    assert [node.run(["hostname"]).stdout for node in [*nodes, nodes.login]] == ["n1\n", "n2\n", "login\n"]


def test_the_checkout_and_this_python_are_there(nodes: Nodes) -> None:
    code = "import sys, distft, ray; print(sys.executable, distft.__file__)"
    env = {"PYTHONPATH": str(bed.ROOT)}
    assert nodes[1].run(["python", "-c", code], env=env).stdout.split() == [
        sys.executable,
        str(bed.ROOT / "distft" / "__init__.py"),
    ]


def test_nodes_reach_each_other_by_name_until_the_cable_is_pulled(nodes: Nodes, tmp_path: Path) -> None:
    first, second = nodes
    ready = nodes.folder / "listening"
    server = second.start([sys.executable, "-c", SERVE, ready])
    try:
        assert until(ready.exists)
        ask = [sys.executable, "-c", ASK, "n2"]
        assert first.run([*ask, "10"]).stdout == "n2\n"
        # Also this machine, and nobody by a port of their own: the server is not on n1.
        assert subprocess.check_output([sys.executable, "-c", ASK, second.ip, "10"], text=True) == "n2\n"
        assert "refused" in first.run([*ask[:-1], "n1", "10"], check=False).stderr
        second.link_down()
        cut = first.run([*ask, "1"], check=False)
        assert cut.returncode == 1
        assert "TimeoutError" in cut.stderr or "No route to host" in cut.stderr
        second.link_up()
        assert until(lambda: first.run([*ask, "2"], check=False).stdout == "n2\n")
    finally:
        second.link_up()
        server.kill()
        server.wait()


def test_a_command_that_fails_or_takes_too_long_is_told_with_its_output(nodes: Nodes) -> None:
    with pytest.raises(BedFailed, match=r"n1: .*ended with 3\n.*said\n"):
        nodes[0].run(["sh", "-c", "echo said; exit 3"])
    with pytest.raises(BedFailed, match=r"longer than 0.2 s\nsaid\n"):
        nodes[0].run(["sh", "-c", "echo said; exec sleep 1000"], timeout=0.2)
    assert not [process for process in nodes[0].processes() if "sleep 1000" in process.command]


def test_power_off_takes_all_of_the_node_and_nothing_else(machines: None, tmp_path: Path) -> None:
    with Nodes(2, tmp_path) as nodes:
        first, second = nodes
        for node in nodes:
            node.start(["sh", "-c", "setsid sleep 1000 & setsid nohup sleep 1001 & sleep 1002"])
            assert until(lambda node=node: len(node.processes()) == 4)  # type: ignore[misc]
        lost = first.processes()
        first.kill()
        assert not first.alive
        assert [process for process in lost if Path(f"/proc/{process.host_pid}").exists()] == []
        assert len(second.processes()) == 4
        with pytest.raises(BedFailed, match="n1 is off"):
            first.run(["true"])
        first.boot()
        assert first.processes() == []
        assert second.run(["getent", "hosts", "n1"]).stdout.split()[0] == first.ip
        first.run([sys.executable, "-c", "import socket; socket.create_server(('n1', 7001))"])


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_of_a_bed(machines: None, tmp_path: Path, fails: bool) -> None:
    processes = []
    with pytest.raises(ZeroDivisionError) if fails else pytest.MonkeyPatch.context():  # noqa: SIM117
        with Nodes(2, tmp_path) as nodes:
            for node in nodes:
                node.start(["sh", "-c", "setsid sleep 1000 & sleep 1000"])
                assert until(lambda node=node: len(node.processes()) == 3)  # type: ignore[misc]
                processes += [node.pid, *(process.host_pid for process in node.processes())]
            assert nodes.bridge in links()
            assert not fails or 1 / 0
    assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
    assert f"{nodes.bridge}n" not in links()
    assert f" {nodes.bridge}:" not in links()
    assert not nodes.state.exists()
    assert str(nodes.state) not in Path("/proc/self/mountinfo").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_bed_ends_with_its_owner_and_the_next_one_clears_up(nodes: Nodes, tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], cwd=bed.ROOT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    with owner.stdout:
        bridge, state, *pids = owner.stdout.readline().split()
    try:
        assert bridge != nodes.bridge
        remove_stale()
        assert f" {bridge}:" in links(), "a bed in use was taken for a stale one"
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    assert until(lambda: not any(_runs(pid) for pid in pids))
    remove_stale()
    assert f" {bridge}:" not in links()
    assert not Path(state).exists()
    assert f" {nodes.bridge}:" in links()
    assert all(node.alive for node in nodes)


def _runs(pid: str) -> bool:
    """Whether the process is there and not a zombie: whose parent is gone may never be buried in a container."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_who_may_not_make_machines_is_told_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert bed.why_not() == "not root: no right to make network namespaces and to mount"
    with pytest.raises(BedFailed, match="not root"), Nodes(1, tmp_path):
        pass
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bed.why_not() == "not installed: ip, mount, nsenter, setpriv, unshare"
