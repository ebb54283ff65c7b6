from __future__ import annotations

import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from distft.batches import Batch
from distft.common.errors import DistftError, EnvironmentFallsShort, RunFailed, UserError
from distft.groups import shell as shell_module
from distft.groups.dispatch import Outcome, Request
from distft.groups.shell import Birth, Shell, Tenant
from distft.groups.worker_start import NOT_FORKED


class Worker:
    def __init__(self, **_: Any) -> None: ...

    def keep(self, *, batch: Batch) -> tuple[int, Batch]:
        return len(batch), batch

    def raised(self, error: Exception) -> tuple[None, None]:
        raise error

    def nothing(self) -> None: ...

    def nameless(self) -> tuple[None, Batch]:
        return None, Batch({"score": np.zeros(2, np.float32)})


class Lodger:
    """One that lives with others, and notes whose turn it was."""

    turns: ClassVar[list[str]] = []

    def __init__(self, name: str, host: Lodger | None = None, **_: Any) -> None:
        self.name, self.host = name, host

    def end_turn(self) -> None:
        self.turns.append(f"{self.name} ends")

    def take_turn(self) -> None:
        self.turns.append(f"{self.name} begins")

    def work(self) -> tuple[str, None]:
        self.turns.append(f"{self.name} works")
        return self.name if self.host is None else f"{self.name} over {self.host.name}", None


@pytest.fixture
def shell() -> Shell:
    made = Shell()
    made._construct(birth("policy", "Worker"))
    return made


def birth(role: str, worker: str, *tenants: Tenant) -> Birth:
    """Of the only rank of a group."""
    return Birth(role, 0, 1, "127.0.0.1", 0, f"{__name__}:{worker}", {}, "", 1, 60.0, tenants)


def run(shell: Shell, verb: str, *args: Any, parts: tuple[Batch, ...] = (), **fields: Any) -> Any:
    asked: dict[str, Any] = {"samples": None, "layout": None, "keep_report": False, **fields}
    return shell.run(Request("policy", verb, args, {}, deadline_s=60.0, **asked), *parts)


def test_the_batch_is_put_together_before_the_verb_runs(shell: Shell) -> None:
    part = Batch({"sample": np.array([4, 5, 6], np.int64), "score": np.array([4.0, 5.0, 6.0], np.float32)})
    outcome, batch = run(shell, "keep", parts=(part,), samples=(6, 4), layout=(1,))
    assert (outcome.report, outcome.samples) == (2, (6, 4))
    assert batch.dense("score").tolist() == [6.0, 4.0]
    assert run(shell, "keep", parts=(part,), layout=(1,), keep_report=True)[0].report is None


def test_what_our_own_error_says_to_do_is_not_cut_off(shell: Shell) -> None:
    outcome, _ = run(shell, "raised", DistftError("the loss is nan\n  learn more slowly"))
    assert outcome.failure.cause == "the loss is nan\n  learn more slowly"
    outcome, _ = run(shell, "raised", ValueError("a defect\nand its lines"))
    assert outcome.failure.cause == "ValueError: a defect"


def test_a_worker_with_a_device_says_what_its_verb_took(shell: Shell) -> None:
    assert run(shell, "keep", parts=(), layout=())[0].peaks == {}
    shell._workers["policy"].take_peaks = lambda: {"allocated_peak": 5}
    assert run(shell, "keep", parts=(), layout=())[0].peaks == {"allocated_peak": 5}
    assert run(shell, "raised", ValueError("a defect"))[0].peaks == {}


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ValueError("a defect"), "exception"), (MemoryError("no more"), "out_of_memory"), (KeyError("k"), "exception")],
)
def test_a_defect_becomes_its_last_line(shell: Shell, error: Exception, kind: str) -> None:
    outcome, batch = run(shell, "raised", error)
    assert batch is None
    assert outcome.failure.kind == kind
    assert outcome.failure.cause == f"{type(error).__name__}: {error}"
    assert outcome.failure.expected is None


@pytest.mark.parametrize(
    "error",
    [UserError("no such column", where="data", hint="text"), EnvironmentFallsShort("full"), RunFailed("x", kind="nan")],
)
def test_expected_errors_travel_as_themselves(shell: Shell, error: Exception) -> None:
    outcome: Outcome = pickle.loads(pickle.dumps(run(shell, "raised", error)[0]))
    assert outcome.failure is not None
    assert type(outcome.failure.expected) is type(error)
    assert str(outcome.failure.expected) == str(error)


def test_workers_of_one_process_have_their_turns() -> None:
    others = [Tenant(role, f"{__name__}:Lodger", {"name": role}) for role in ("value", "reward")]
    shell = Shell()
    shell._construct(replace(birth("policy", "Lodger", *others), spec={"name": "policy"}))
    asked = [
        shell.run(Request(role, "work", (), {}, keep_report=False, samples=None, layout=None, deadline_s=60.0))[0]
        for role in ("policy", "value", "value", "reward", "policy")
    ]
    assert [one.report for one in asked] == [
        "policy", "value over policy", "value over policy", "reward over policy", "policy",
    ]  # fmt: skip
    assert Lodger.turns == [
        "policy works", "policy ends", "value begins", "value works", "value works",
        "value ends", "reward begins", "reward works", "reward ends", "policy begins", "policy works",
    ]  # fmt: skip


def test_verbs_must_keep_to_the_contract(shell: Shell) -> None:
    assert "must return (report, Batch or None)" in run(shell, "nothing")[0].failure.cause
    assert "no column 'sample'" in run(shell, "nameless")[0].failure.cause
    assert "AttributeError" in run(shell, "unknown")[0].failure.cause


def test_a_worker_works_where_the_driver_does_and_uses_its_nodes_interface(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "driver").mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path])
    shell_module._enter(str(tmp_path / "driver"))
    assert Path.cwd() == tmp_path / "driver"
    assert str(tmp_path / "driver") in sys.path
    shell_module._enter(str(tmp_path / "not seen here"))
    assert Path.cwd() == tmp_path / "driver"
    shell_module._use_interface_of("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"].startswith("lo")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    shell_module._use_interface_of("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0", "what the plan says stays"


def test_a_rank_that_no_server_could_fork_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shell_module._say_if_not_forked()
    assert not caplog.records
    (tmp_path / "server.log").write_text("Traceback\nRuntimeError: toy starts threads when it is imported\n")
    monkeypatch.setenv(NOT_FORKED, str(tmp_path / "server.log"))
    shell_module._say_if_not_forked()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "which takes longer: RuntimeError: toy starts threads when it is imported" in caplog.text
