"""The private cluster: closed to strangers, gone with its driver; and somebody else's."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import psutil
import pytest
import ray

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.launch.on_ray.cluster import Cluster, _refuse_strangers, connect
from distft.launch.on_ray.guard import processes_of
from tests.harness.http_server import serving
from tests.ray.conftest import LOOPBACK_STAYS, ROOT

pytestmark = pytest.mark.ray

CONNECT = LOOPBACK_STAYS + (
    "from distft.launch.on_ray.cluster import connect\nwith connect(num_cpus=1) as c: print('connected', c.address)"
)


def run_python(code: str, **environment: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=kept | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def strangers(cluster: Cluster) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Processes that try to join our cluster, without and with the token. A refusal takes Ray 20 s."""
    token = os.environ["RAY_AUTH_TOKEN_PATH"]
    tries = {
        "stranger": run_python(CONNECT, RAY_ADDRESS=cluster.address, RAY_AUTH_MODE="disabled"),
        "guesser": run_python(CONNECT, RAY_ADDRESS=cluster.address, RAY_AUTH_TOKEN="0" * 64),
        "friend": run_python(CONNECT, RAY_ADDRESS=cluster.address, RAY_AUTH_TOKEN_PATH=token),
    }
    yield tries
    for process in tries.values():
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[subprocess.Popen[str], Path, Path]]]:
    """Drivers that wait in a call, with their run folders and the private folders of their Ray."""
    started = []
    for name in ("killed", "interrupted", "left"):
        folder = tmp_path_factory.mktemp(name)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.ray.driver", str(folder)],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append((process, folder))
    ready = []
    for process, folder in started:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert len(words) == 3, process.communicate(timeout=60)
        ready.append((process, folder, Path(words[0])))
    yield ready
    for process, _ in started:
        process.kill()
        process.communicate()


# Its Ray's GCS dies in the very end, when it gives back the places of its ranks.
LATE = """
import os, signal, sys
from pathlib import Path
import psutil
from distft.groups import placement
from distft.launch.on_ray.cluster import connect
from tests.ray.conftest import toy
remove = placement.remove_placement_group
def remove_without_gcs(group):
    servers = [one for one in psutil.Process().children(recursive=True) if one.name() == "gcs_server"]
    for server in servers:
        server.kill()
        server.wait()
    remove(group)
placement.remove_placement_group = remove_without_gcs
with connect(num_cpus=2, object_store_bytes=128 * 2**20):
    placement.start_groups(
        [toy("policy")], log_dir=Path(sys.argv[1]), attempt=1, deadlines=placement.Deadlines(120, 20, 120)
    ).shutdown()
print("done")
"""


def wait_until_gone(folder: Path, seconds: float) -> float:
    """Seconds until no process of that Ray is left and its folder is gone."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        left = [pid for pid in processes_of(str(folder)) if psutil.pid_exists(pid)]
        if not left and not folder.exists():
            return time.monotonic() - started
        time.sleep(0.1)
    raise AssertionError(f"{processes_of(str(folder))} or {folder} are still there after {seconds} s")


def test_the_token_is_private_and_only_its_path_travels(
    cluster: Cluster, strangers: dict[str, subprocess.Popen[str]]
) -> None:
    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(str(path.parent / "r")) <= 40
    token = path.read_bytes()
    assert len(token) == 64, "256 bits"
    processes = processes_of(str(path.parent))
    assert len(processes) >= 5
    for pid in processes:
        for name in ("cmdline", "environ"):
            assert token not in Path(f"/proc/{pid}/{name}").read_bytes(), (pid, name)


def test_a_connection_within_a_connection_uses_the_same_cluster(cluster: Cluster) -> None:
    with connect(num_cpus=1) as inner:
        assert inner.address == cluster.address
    assert ray.is_initialized(), "the inner block's end is not the cluster's"


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is taken to have no Ray yet; nothing here gets as far as asking for one."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.parametrize("address", ["auto", "local", "somewhere", "ray://host:10001", ":6379", "host:"])
def test_an_address_must_be_explicit(unconnected: None, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"RAY_ADDRESS: '{address}' is not an explicit address"), connect(num_cpus=1):
        pass


def test_an_address_where_nobody_listens_is_said_so_at_once(unconnected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(EnvironmentFallsShort, match="cannot connect to Ray: .*refused"), connect(num_cpus=1):
        pass


class Careless(BaseHTTPRequestHandler):
    """An agent that would run anybody's job."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()


def test_an_agent_that_obeys_anyone_is_refused() -> None:
    refused = "answered 200, not 401, to a request without a token"
    with serving(Careless) as url, pytest.raises(EnvironmentFallsShort, match=refused):
        _refuse_strangers("127.0.0.1", int(url.rpartition(":")[2]))


def test_a_killed_driver_takes_its_whole_ray_along(
    cluster: Cluster,
    strangers: dict[str, subprocess.Popen[str]],
    drivers: list[tuple[subprocess.Popen[str], Path, Path]],
) -> None:
    process, _, private = drivers[0]
    its = processes_of(str(private))
    assert len(its) >= 7, "servers, agents and two workers"
    assert process.pid not in map(os.getsid, its), "a terminal's signal to the driver's group misses them"
    process.kill()
    process.wait()
    print(f"everything of a killed driver was gone after {wait_until_gone(private, 15):.1f} s")
    assert len(processes_of(os.path.dirname(os.environ["RAY_AUTH_TOKEN_PATH"]))) >= 5, "ours is untouched"


def test_a_driver_whose_ray_has_died_ends_in_order(drivers: list[tuple[subprocess.Popen[str], Path, Path]]) -> None:
    """Ray itself would end it after a minute, with a word of its own."""
    process, _, private = drivers[2]
    its = processes_of(str(private))
    (server,) = [pid for pid in its if psutil.Process(pid).cmdline()[0].endswith("/gcs_server")]
    os.kill(server, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert errors.splitlines()[-1].startswith("distft.common.errors.RunFailed: Ray on "), errors
    assert "its gcs_server" in errors.splitlines()[-1]
    wait_until_gone(private, 15)


def test_a_driver_whose_ray_dies_in_its_very_end_has_ended_well(tmp_path: Path) -> None:
    """Ray itself would end it after a minute, with 1."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = [sys.executable, "-c", LATE, str(tmp_path)]
    ended = subprocess.run(words, cwd=ROOT, env=kept, capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr


def test_an_interrupted_driver_ends_in_order(drivers: list[tuple[subprocess.Popen[str], Path, Path]]) -> None:
    process, folder, private = drivers[1]
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    print(f"an interrupted driver had ended after {time.monotonic() - started:.1f} s")
    assert "KeyboardInterrupt" in errors
    wait_until_gone(private, 5)
    assert (folder / "logs" / "ray" / "raylet.out").exists(), "Ray's own logs of a run that failed are kept"
    assert (folder / "logs" / "policy-0.log").exists()


@pytest.mark.parametrize("who", ["stranger", "guesser"])
def test_strangers_are_refused(strangers: dict[str, subprocess.Popen[str]], who: str) -> None:
    output, errors = strangers[who].communicate(timeout=90)
    assert "connected" not in output
    assert EnvironmentFallsShort.__name__ in errors
    assert "cannot connect to Ray" in errors
    assert "is RAY_AUTH_TOKEN_PATH the path of its token?" in errors


def test_who_has_the_token_may_join(strangers: dict[str, subprocess.Popen[str]], cluster: Cluster) -> None:
    output, errors = strangers["friend"].communicate(timeout=90)
    assert output.strip() == f"connected {cluster.address}", errors


def test_nothing_is_left_and_the_environment_is_as_before() -> None:
    """Runs after the module's cluster in a process of its own, twice: the token is read once by Ray."""
    code = (
        "import os\nfrom distft.launch.on_ray.cluster import connect\n"
        "for _ in range(2):\n"
        "    with connect(num_cpus=1, object_store_bytes=100_000_000) as c:\n"
        "        folder = os.path.dirname(os.environ['RAY_AUTH_TOKEN_PATH'])\n"
        "    assert not os.path.exists(folder)\n"
        "    assert not [n for n in os.environ if n.startswith('RAY_AUTH')]\n"
        "    print('ended')\n"
    )
    process = run_python(code)
    output, errors = process.communicate(timeout=120)
    assert output.split() == ["ended", "ended"], errors
