from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.tracking import wandb_backend
from distft.tracking.metrics import MetricRecord, Sample
from distft.tracking.wandb_backend import WandbBackend, WandbOptions, wandb_options

OWN = "recipe-ppo-hh"


def options(**changes: Any) -> WandbOptions:
    return WandbOptions(**{"mode": "offline", "project": "p", "name": "ppo-tiny", "job_type": "ppo", "group": "g",
                           **changes})  # fmt: skip


class FakeRun:
    """Records what it is told, after whatever ``trouble`` does."""

    def __init__(self, trouble: Any = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.resumed = False
        self.steps: list[int | None] = []
        self.starting_step = 0
        self.finished: list[int] = []
        self.trouble = trouble or (lambda: None)

    def log(self, row: dict[str, Any], step: int | None = None) -> None:
        assert step in (None, row["step"])
        self.steps.append(step)
        self.trouble()
        self.rows.append({**row, **({"completions": list(row["completions"].rows)} if "completions" in row else {})})

    def define_metric(self, *_: Any, **__: Any) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        self.finished.append(exit_code)


class FakeTable:
    def __init__(self, columns: list[str], log_mode: str) -> None:
        assert (columns, log_mode) == (["step", "prompt", "completion", "score"], "INCREMENTAL")
        self.rows: list[tuple[Any, ...]] = []

    def add_data(self, *row: Any) -> None:
        self.rows.append(row)


class FakeWandb(SimpleNamespace):
    """A wandb module whose ``init`` answers with the given runs or errors, in turn."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(Settings=lambda **fields: fields, setup=lambda **_: None, login=lambda **_: True,
                         Table=FakeTable, teardown=lambda: None)  # fmt: skip
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    def init(self, **arguments: Any) -> Any:
        self.asked.append(arguments)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def use(monkeypatch: pytest.MonkeyPatch, fake: FakeWandb) -> FakeWandb:
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_DATA_DIR", "/nowhere")
    return fake


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """Waiting for this takes until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_rows_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun()
    fake = use(monkeypatch, FakeWandb(run))
    backend = WandbBackend(tmp_path, options(run_id="abc12345", tags=("t",), config={"seed": 1}, entity="team"))
    backend.log(MetricRecord(1, "train", {"loss": 0.5}))
    backend.log(MetricRecord(1, "eval", {"loss": 0.75}))
    backend.samples(1, [Sample("q", "a", 0.1), Sample("q", "b")])
    backend.log(MetricRecord(1, "train", {"loss": 0.25}))  # again, after a restart
    backend.samples(1, [Sample("q", "a", 0.1), Sample("q", "b")])
    backend.samples(2, [Sample("q", "c")])
    backend.close(exit_status=3)
    assert run.rows == [
        {"train/loss": 0.5, "step": 1},
        {"eval/loss": 0.75, "step": 1},
        {"completions": [(1, "q", "a", 0.1), (1, "q", "b", None)], "step": 1},
        {"completions": [(1, "q", "a", 0.1), (1, "q", "b", None), (2, "q", "c", None)], "step": 2},
    ]
    assert run.finished == [3]
    [asked] = fake.asked
    asked.pop("settings")
    assert asked == {"dir": str(tmp_path), "mode": "offline", "project": "p", "entity": "team", "group": "g",
                     "job_type": "ppo", "name": "ppo-tiny", "tags": ["t"], "config": {"seed": 1}, "id": "abc12345",
                     "resume": "allow"}  # fmt: skip
    assert backend.run_id == "abc12345"


def test_a_new_run_has_an_id_before_wandb_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeWandb(FakeRun(), FakeRun()))
    ids = set()
    for _ in range(2):
        backend = WandbBackend(tmp_path, options())
        ids.add(backend.run_id)
        backend.close()
    assert len(ids) == 2
    assert all(len(run_id) == 8 for run_id in ids)


def test_online_that_cannot_start_is_kept_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = FakeRun()
    fake = use(monkeypatch, FakeWandb(ConnectionError("no route"), run))
    backend = WandbBackend(tmp_path, options(mode="online"))
    backend.log(MetricRecord(1, "train", {"loss": 0.5}))
    backend.close()
    assert [asked["mode"] for asked in fake.asked] == ["online", "offline"]
    assert run.rows == [{"train/loss": 0.5, "step": 1}]
    assert "no route; the W&B run is kept offline" in caplog.text


def test_a_shared_run_counts_for_itself_on_our_own_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, kept = FakeRun(), FakeRun()
    fake = use(monkeypatch, FakeWandb(run, ConnectionError("no route"), kept))
    for _ in range(2):
        backend = WandbBackend(tmp_path, options(mode="shared"))
        backend.log(MetricRecord(1, "train", {"loss": 0.5}))
        backend.log(MetricRecord(1, "train", {"loss": 0.5}))
        backend.close()
    assert [asked["mode"] for asked in fake.asked] == ["shared", "shared", "offline"]
    assert [asked["settings"]["x_label"] for asked in fake.asked] == ["driver", "driver", None]
    assert run.rows == kept.rows == [{"train/loss": 0.5, "step": 1}]
    assert (run.steps, kept.steps) == ([None], [1]), "what W&B ignores there is not given"


def test_without_credentials_nobody_is_asked_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = use(monkeypatch, FakeWandb(FakeRun()))
    asked: list[dict[str, Any]] = []

    def nobody(**arguments: Any) -> bool:
        asked.append(arguments)
        return False

    fake.login = nobody
    WandbBackend(tmp_path, options(mode="online")).close()
    assert asked == [{"prompt": False}]
    assert [one["mode"] for one in fake.asked] == ["offline"]
    assert "no credentials" in caplog.text


def test_a_broken_installation_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_DATA_DIR", "/nowhere")
    backend = WandbBackend(tmp_path, options())
    for step in range(5):
        backend.log(MetricRecord(step, "train", {"loss": 0.5}))
    backend.close()
    backend.log(MetricRecord(9, "train", {}))
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "there is no W&B run" in errors[0].getMessage()


def test_errors_are_said_once_and_the_rest_still_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    troubles = iter([500, 500, 0, 0])

    def trouble() -> None:
        if next(troubles):
            raise RuntimeError("HTTP 500")

    run = FakeRun(trouble)
    use(monkeypatch, FakeWandb(run))
    backend = WandbBackend(tmp_path, options())
    for step in range(4):
        backend.log(MetricRecord(step, "train", {}))
    backend.close()
    assert [row["step"] for row in run.rows] == [2, 3]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "W&B: HTTP 500; training goes on, metrics.jsonl is complete"]  # fmt: skip


def test_a_backend_that_hangs_costs_no_time_and_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stuck: threading.Event
) -> None:
    run = FakeRun(lambda: stuck.wait(60))
    use(monkeypatch, FakeWandb(run))
    monkeypatch.setattr("distft.tracking.wandb_backend._STOP_TIMEOUT_S", 0.1)
    backend = WandbBackend(tmp_path, options(), queue_size=10)
    since = time.monotonic()
    for step in range(1000):
        backend.log(MetricRecord(step, "train", {}))
    logged = time.monotonic() - since
    assert backend._jobs.qsize() == 10
    backend.close(timeout_s=0.3)
    assert logged < 20, "the first row alone hangs for a minute"
    assert time.monotonic() - since < 40
    assert caplog.text.count("does not keep up") == 1
    assert "did not finish within 0 s" in caplog.text
    assert "too slow for" in caplog.text


REAL = """
import sys
from pathlib import Path
from distft.tracking.metrics import MetricRecord, Sample
from distft.tracking.wandb_backend import WandbBackend, WandbOptions
run = Path(sys.argv[1])
backend = WandbBackend(run, WandbOptions("offline", "proj-x", "ppo-tiny", "ppo", "exp-x", tags=("tag-x",),
                                         config={"algorithm": {"kind": "config-x"}}, run_id="abcd1234"))
for step in range(1, 4):
    backend.log(MetricRecord(step, "train", {"objective/scores": step / 4, "loss": float("nan")}))
backend.samples(3, [Sample("prompt-x", "completion-x", 0.5)])
backend.close(timeout_s=60)
"""


def test_offline_for_real_writes_a_run_below_the_run_folder_and_no_command_line(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    run = tmp_path / "run"
    run.mkdir()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "SECRET_THING": "hunter2env"}
    command = [sys.executable, "-c", REAL, str(run), "--api-key=hunter2argv"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""
    [record] = run.glob("wandb/offline-run-*-abcd1234/run-abcd1234.wandb")
    content = record.read_bytes()
    for word in (b"proj-x", b"ppo-tiny", b"exp-x", b"tag-x", b"config-x", b"train/objective/scores"):
        assert word in content, word
    tables = [path.read_text() for path in run.rglob("*.table.json")]
    assert any("completion-x" in table for table in tables)
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hunter2" not in everything
    outside = [path for path in home.rglob("*") if path.is_file() and "staging" in str(path)]
    assert outside == []


FROZEN = """
import sys, time
from pathlib import Path
import psutil
from distft.tracking.metrics import MetricRecord
from distft.tracking.wandb_backend import WandbBackend, WandbOptions
backend = WandbBackend(Path(sys.argv[1]), WandbOptions("offline", "p", "n", "ppo", "g"))
backend.log(MetricRecord(1, "train", {}))
helpers = []
until = time.monotonic() + 60
while not helpers and time.monotonic() < until:
    time.sleep(0.1)
    helpers = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
time.sleep(1.0)
helpers[0].suspend()
print(helpers[0].pid, flush=True)
backend.close(timeout_s=1.0)
print("closed", flush=True)
"""


def test_a_frozen_helper_for_real_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FROZEN, str(tmp_path)], capture_output=True, text=True, timeout=90,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    pid, closed = done.stdout.split()
    assert closed == "closed"
    assert not Path(f"/proc/{pid}").exists()


def recipe(*overrides: str) -> Recipe:
    """One with a secret in it, where a person may have written one."""
    secret = "data.train.0.path=https://me:hunter2hunter2@example.org/rows.jsonl"
    return load_recipe("ppo-tiny", ["name=ppo-hh", "seed=1", secret, *overrides])


@pytest.fixture(autouse=True)
def _no_wandb_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODE", "PROJECT", "ENTITY", "RUN_GROUP", "TAGS", "DATA_DIR", "DISABLED"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)


def test_options_of_a_recipe() -> None:
    found = wandb_options(
        recipe(), run_id="x", commit="0123456789abcdef", branch="main", more_config={"deepspeed": {"stage": 3}}
    )
    assert (found.mode, found.project, found.name, found.job_type, found.group) == (
        "offline", "distft", "ppo-hh", "ppo", "ppo-hh")  # fmt: skip
    assert (found.tags, found.run_id, found.entity) == (
        ("commit-0123456789ab", "branch-main", "recipe-ppo-hh"), "x", None)  # fmt: skip
    assert found.config["seed"] == 1
    assert found.config["deepspeed"] == {"stage": 3}
    assert "@example.org/rows.jsonl" in str(found.config)
    assert "hunter2" not in str(found.config)


def test_the_environment_speaks_where_the_recipe_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_PROJECT", "from-env")
    monkeypatch.setenv("WANDB_RUN_GROUP", "group-env")
    monkeypatch.setenv("WANDB_TAGS", "a,b")
    found = wandb_options(recipe())
    assert (found.mode, found.project, found.group, found.tags) == (
        "disabled",
        "from-env",
        "group-env",
        ("a", "b", OWN),
    )
    found = wandb_options(recipe("tracking.wandb={mode: online, project: mine, group: ours, tags: [c]}"))
    assert (found.mode, found.project, found.group, found.tags) == ("online", "mine", "ours", ("c", OWN))
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    assert wandb_options(recipe()).mode == "offline"


def test_disabled_in_the_environment_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert wandb_options(recipe()).mode == "disabled"
    assert wandb_options(recipe("tracking.wandb.mode=online")).mode == "disabled"
    monkeypatch.setenv("WANDB_DISABLED", "false")
    assert wandb_options(recipe()).mode == "offline"


def test_samples_of_both_splits_fall_on_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun()
    use(monkeypatch, FakeWandb(run))
    backend = WandbBackend(tmp_path, options())
    backend.samples(1, [Sample("q", "trained")])
    backend.samples(1, [Sample("q", "held out")], "eval")
    backend.close()
    rows = [(1, "q", "trained", None), (1, "q", "held out", None)]
    assert [row["completions"] for row in run.rows] == [rows[:1], rows]


def test_files_of_earlier_starts_that_cannot_be_read_cost_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stuck(_: object) -> dict[str, int]:
        raise subprocess.TimeoutExpired("wandb", 1)

    run, sent = FakeRun(), FakeRun()
    sent.resumed, sent.starting_step = True, 2
    use(monkeypatch, FakeWandb(run, sent))
    monkeypatch.setattr(wandb_backend, "logged", stuck)
    for mode in ("offline", "online"):
        caplog.clear()
        backend = WandbBackend(tmp_path, options(run_id="abc12345", mode=mode))
        for step in (1, 2):
            backend.log(MetricRecord(step, "train", {"loss": 0.5}))
        backend.close()
        assert ("cannot be read" in caplog.text) == (mode == "offline"), "read only where nothing better says it"
    assert [[row["step"] for row in one.rows] for one in (run, sent)] == [[1, 2], [2]]
