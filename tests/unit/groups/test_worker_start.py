"""Workers forked by a server that has imported: each as if it had been started by itself, and started where none is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distft.common.waiting import wait_until
from distft.groups import worker_start
from distft.groups.killed import killed_by

# What a worker says of itself; in place of Ray's own script.
WORKER = """
import json, os, random, sys, tempfile
said = {"parent": os.getppid(), "argv": sys.argv, "name": __name__, "folder": os.getcwd(), "random": random.random(),
        "path": sys.path[0], "own": os.environ.get("OWN"), "left": sorted(n for n in os.environ if n == "LEFT"),
        "temporary": tempfile.gettempdir(), "imported": "toy" in sys.modules, "umask": os.umask(0),
        "leads": os.getpgrp() == os.getpid(), "not forked": os.environ.get("DISTFT_NOT_FORKED")}
if "torch" in sys.modules:
    said["threads"] = sys.modules["torch"].get_num_threads()
print(json.dumps(said))
print("an error", file=sys.stderr)
"""
THREADS = "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
FORKED = {worker_start.MODULE: "toy"}


@pytest.fixture
def raylet() -> Iterator[subprocess.Popen[bytes]]:
    """What stands for the raylet: a process with which the servers end."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


class Node:
    """A node's folder, where workers are started as Ray starts them."""

    def __init__(self, folder: Path, raylet: int, module: str) -> None:
        self.folder = folder
        (folder / "toy.py").write_text(module)
        (folder / "worker.py").write_text(WORKER)
        (folder / "f").mkdir(mode=0o700)
        (folder / "setup_worker.py").write_text("import sys; print('Ray itself', *sys.argv[1:])")
        self.environment = os.environ | {
            worker_start.FOLDER: str(folder / "f"), "RAY_RAYLET_PID": str(raylet),
            "PYTHONPATH": f"{folder}:{Path(worker_start.__file__).parents[2]}",
        }  # fmt: skip
        self.environment.pop("OMP_NUM_THREADS", None)

    def start(self, *words: str, more: object = None, **own: str) -> subprocess.Popen[str]:
        """As a raylet does; ``more``: what else the worker's runtime environment asks for."""
        context = {"env_vars": own, "py_executable": sys.executable, "command_prefix": more}
        command = [sys.executable, worker_start.__file__, str(self.folder / "worker.py"), "--worker-id=1"]
        command += [f"--serialized-runtime-env-context={json.dumps(context)}", *(words or ["--language=PYTHON"])]
        return subprocess.Popen(
            command, text=True, cwd=self.folder, env=self.environment, umask=0o027,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def servers(self) -> int:
        return len(list((self.folder / "f").glob("*.log")))


def said(process: subprocess.Popen[str]) -> dict[str, object]:
    output, errors = process.communicate(timeout=60)
    assert "an error" in errors, errors
    return dict(json.loads(output))


def test_workers_are_forked_and_each_is_as_if_it_had_been_started_by_itself(
    tmp_path: Path, raylet: subprocess.Popen[bytes]
) -> None:
    node = Node(tmp_path, raylet.pid, "import os, torch\nos.environ['LEFT'] = '1'\n")
    first, second = (node.start(**FORKED, OMP_NUM_THREADS=threads, RAY_JOB_ID=threads) for threads in "21")
    one, other = said(first), said(second)
    assert node.servers() == 1
    assert one["parent"] == other["parent"] != os.getpid()
    assert (one["threads"], other["threads"]) == (2, 1)
    assert one["random"] != other["random"]
    for worker in (one, other):
        assert worker["imported"]
        assert worker["argv"] == [str(tmp_path / "worker.py"), "--worker-id=1"]
        assert (worker["name"], worker["folder"], worker["path"]) == ("__main__", str(tmp_path), str(tmp_path))
        assert worker["umask"] == 0o027
        assert worker["leads"], "Ray kills the process group of a worker that died: not its siblings, nor their server"
        assert worker["left"] == []
    with Path(f"/proc/{one['parent']}/cmdline").open("rb") as file:
        assert b"distft.groups.fork_server" in file.read()
    raylet.kill()
    raylet.wait()
    assert wait_until(lambda: not Path(f"/proc/{one['parent']}").exists(), 10.0)


def test_what_a_rank_imports_can_be_forked(tmp_path: Path, raylet: subprocess.Popen[bytes]) -> None:
    """With what transformers imports where it is there: scikit-learn, pandas and, through them, Arrow."""
    node = Node(tmp_path, raylet.pid, "import pyarrow\nfrom distft.workers.generator_worker import preload\n")
    worker = said(node.start(**FORKED))
    assert worker["imported"]
    assert worker["parent"] != os.getpid(), "forked, not started"


def test_another_environment_has_another_server(tmp_path: Path, raylet: subprocess.Popen[bytes]) -> None:
    node = Node(tmp_path, raylet.pid, "")
    node.environment["HERE"] = str(tmp_path)
    started = [node.start(**FORKED, OWN=own, TMPDIR="$HERE/f") for own in ("a", "b", "a")]
    answers = [said(each) for each in started]
    assert [answer["own"] for answer in answers] == ["a", "b", "a"]
    assert {answer["temporary"] for answer in answers} == {str(tmp_path / "f")}
    assert answers[0]["parent"] == answers[2]["parent"] != answers[1]["parent"]
    assert node.servers() == 2


@pytest.mark.parametrize(
    ("module", "cause"),
    [
        ("raise ImportError('no such library')", "no such library"),
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
            "cannot be forked",
        ),
    ],
)
def test_where_no_server_can_be_the_worker_starts_by_itself(
    tmp_path: Path, raylet: subprocess.Popen[bytes], module: str, cause: str
) -> None:
    node = Node(tmp_path, raylet.pid, module)
    worker = said(node.start(**FORKED))
    assert worker["parent"] == os.getpid()
    assert not worker["imported"]
    assert worker["argv"] == [str(tmp_path / "worker.py"), "--worker-id=1"]
    log = next((tmp_path / "f").glob("*.log"))
    assert worker["not forked"] == str(log)
    assert wait_until(lambda: cause in log.read_text(), 10.0)


def test_who_does_not_ask_for_it_is_started(tmp_path: Path, raylet: subprocess.Popen[bytes]) -> None:
    node = Node(tmp_path, raylet.pid, "")
    worker = said(node.start(OWN="a"))
    assert (worker["parent"], worker["own"], worker["not forked"]) == (os.getpid(), "a", None)
    assert node.servers() == 0


def test_what_needs_more_than_variables_is_left_to_ray(tmp_path: Path, raylet: subprocess.Popen[bytes]) -> None:
    node = Node(tmp_path, raylet.pid, "")
    for process in (node.start("--language=JAVA"), node.start(more=["a container"])):
        output, _ = process.communicate(timeout=60)
        assert output.startswith(f"Ray itself {tmp_path / 'worker.py'} --worker-id=1 --serialized")


DYING = """
import faulthandler, os, sys
from pathlib import Path
from distft.groups.killed import note_log
note_log(Path(os.environ["DISTFT_FORK_FOLDER"]), os.environ["OWN"], process="policy-1", attempt=3)
print(os.getpid(), flush=True)
os.kill(os.getpid(), int(os.environ["HOW"]))
"""


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGKILL, "killed by SIGKILL"), (signal.SIGSEGV, "crashed with SIGSEGV")]
)
def test_the_log_of_a_forked_rank_says_which_signal_killed_it(
    tmp_path: Path, raylet: subprocess.Popen[bytes], number: int, said: str
) -> None:
    node = Node(tmp_path, raylet.pid, "")
    (tmp_path / "worker.py").write_text(DYING)
    log = tmp_path / "policy-1.log"
    output, errors = node.start(**FORKED, OWN=str(log), HOW=str(int(number))).communicate(timeout=60)
    pid = int(output)
    assert killed_by(str(log), pid) == said, errors
    assert "WARNING [attempt 3 policy-1]" in log.read_text()
    assert killed_by(str(log), pid + 1) == "", "another process"
    assert not list((tmp_path / "f").glob("*.rank"))
