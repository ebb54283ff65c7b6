from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError

from distft.common.errors import RunFailed, UserError
from distft.engine.diverged import NonFiniteLoss
from distft.groups.dispatch import Failure
from distft.groups.handles import WorkerInfo
from distft.groups.worker_group import Answers, Asked, Member, _failed, _lost, _too_late, count_oom_kills

ANYTHING: Any = None


def member(rank: int, log: Path | str = "") -> Member:
    return Member("policy", rank, object(), ANYTHING, WorkerInfo(rank, f"node{rank}", 1, log=str(log)))


def test_a_defect_is_named_with_its_place() -> None:
    trouble = _failed(member(3, "a.log"), Failure("ValueError: x", "exception", 1.0, "loading"))
    assert isinstance(trouble.error, RunFailed)
    assert str(trouble.error) == "policy rank 3 on node3: ValueError: x\n  last stage: loading\n  log: a.log"


def test_a_users_error_is_not_wrapped() -> None:
    error = UserError("no such column", where="data")
    assert _failed(member(0), Failure("", "exception", 1.0, "", error)).error is error


def test_a_run_failure_of_a_worker_keeps_its_kind_and_gets_its_place() -> None:
    error = _failed(member(1), Failure("", "exception", 1.0, "s", RunFailed("not finite", kind="nan"))).error
    assert isinstance(error, RunFailed)
    assert (error.cause, error.kind, error.role, error.rank) == ("not finite", "nan", "policy", 1)


def test_what_a_worker_says_in_our_words_would_come_again() -> None:
    told = NonFiniteLoss("the loss", float("nan"), 1e-3)
    error = _failed(member(1), Failure(str(told), "exception", 1.0, "s", told)).error
    assert isinstance(error, RunFailed)
    assert error.would_repeat
    other = _failed(member(1), Failure("RuntimeError: x", "exception", 1.0, "s")).error
    assert isinstance(other, RunFailed)
    assert not other.would_repeat


def died(message: str) -> ActorDiedError:
    return ActorDiedError(ActorDiedErrorContext(actor_id=bytes(16), error_message=message))


def test_one_that_went_with_its_node_is_no_death_of_its_own() -> None:
    """Ray's words where a node falls silent, its cable cut; and where only the process has died."""
    node = (
        "The actor died because its node has died. Node Id: fae563b8\n\tthe actor's node was terminated unexpectedly: "
        "health check failed due to missing too many heartbeats"
    )
    no_more = 2**62  # kills by the kernel that are not new
    error = _lost(member(1), died(node), no_more).error
    assert isinstance(error, RunFailed)
    assert (error.kind, error.node, error.rank) == ("node", "node1", 1)
    said = "its node does not answer any more (health check failed due to missing too many heartbeats)"
    assert error.cause == said
    alone = "The actor is dead because its worker process has died. Worker exit detail: it ended."
    error = _lost(member(1), died(alone), no_more).error
    assert isinstance(error, RunFailed)
    assert (error.kind, error.cause) == ("death", "its process died: it ended.")


@pytest.mark.parametrize(
    ("cause", "order"),
    [("RuntimeError: Connection closed by peer", 2), ("DistBackendError: NCCL error", 2), ("ValueError: x", 1)],
)
def test_broken_connections_may_have_another_cause(cause: str, order: int) -> None:
    assert _failed(member(0), Failure(cause, "exception", 1.0)).order == order


def test_a_deadline_names_every_silent_rank_and_its_stage(tmp_path: Path) -> None:
    for rank in (0, 1):
        (tmp_path / f"{rank}.log").write_text(f"stage: stuck {rank}\n")
    silent = {"b": member(1, tmp_path / "1.log"), "a": member(0, tmp_path / "0.log")}
    error = _too_late(Asked("policy", "update", dict(silent), 30.0))
    assert error.cause.startswith(
        "no answer to update within 30 s from rank 0 on node0 at 'stuck 0'; rank 1 on node1 at 'stuck 1'"
    )
    assert (error.rank, error.stage, error.kind) == (0, "stuck 0", "deadline")


def test_a_frozen_rank_is_to_blame_for_those_that_wait_for_it() -> None:
    waiting, frozen, idle = member(0), member(1), member(2)
    error = _too_late(Asked("policy", "update", {"a": waiting, "b": frozen}, 30.0), {frozen, idle})
    assert (error.rank, error.node) == (1, "node1")
    assert "; frozen: rank 1; stacks are in the logs" in error.cause


def test_time_in_which_nobody_looked_is_no_silence() -> None:
    """Stopped for a minute: what was asked before may take a minute longer, what was asked since only what it could."""
    answers, now = Answers(), time.monotonic()
    before, since = Asked("policy", "update", {}, 20.0, started=now - 100.0), Asked("value", "update", {}, 20.0, now)
    answers.look([before, since], now + 4.0)
    assert (before.away_s, since.away_s) == (0.0, 0.0), "a busy machine is no absence"
    answers.look([before, since], now + 65.0)
    assert before.away_s == pytest.approx(60.0)
    assert before.deadline == pytest.approx(now - 100.0 + 20.0 + 60.0)
    late = Asked("value", "update", {}, 20.0, started=now + 120.0)
    answers.look([late], now + 127.0)
    assert late.away_s == pytest.approx(7.0)


def test_processes_that_never_started_have_no_rank() -> None:
    unborn = Member("policy", 0, ANYTHING, ANYTHING)
    error = _too_late(Asked("policy", "where", {"a": unborn}, 9.0))
    assert str(error) == "policy: 1 worker processes have not started within 9 s\n  last stage: starting its process"


def test_kills_for_memory_are_counted_where_the_kernel_tells(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("nr_free_pages 12\noom_kill 3\n")
    assert count_oom_kills(tmp_path / "vmstat") == 3
    assert count_oom_kills(tmp_path / "none") == 0
