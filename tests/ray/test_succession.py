"""A worker that dies is followed by another in its place, which goes on where that one was."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from distft.clients.asking import ask, each, rows
from distft.common.errors import RunFailed
from distft.common.verb import declaration
from distft.groups.handles import WorkerInfo
from distft.groups.placement import Groups
from tests.ray.conftest import start, toy
from tests.ray.toy_worker import ToyWorker

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

Followed = list[tuple[RunFailed, WorkerInfo]]


@pytest.fixture
def followed() -> Followed:
    """Who died, and who took the place."""
    return []


@pytest.fixture
def groups(tmp_path: Path, followed: Followed) -> Iterator[Groups]:
    """Two workers that may be followed, three times in all, and one that may not."""
    started = start(tmp_path, toy("rollout", 2, replaceable=True), toy("policy"))

    def told(failure: RunFailed, worker: WorkerInfo, seconds: float) -> None:
        print(f"{failure.role} rank {failure.rank} goes on after {seconds:.1f} s")
        followed.append((failure, worker))

    started.let_succeed(lambda _: len(followed) < 3, told)
    yield started
    started.shutdown(kill=True)


def test_what_it_was_doing_is_done_by_another_that_knows_what_it_knew(
    groups: Groups, followed: Followed, tmp_path: Path
) -> None:
    rollout, before = groups["rollout"], groups.workers
    made = ask(groups["policy"], ToyWorker.make, [5, 6]).result().data
    assert made is not None
    assert ask(rollout, ToyWorker.begin, 90).result().reports == (90, 90)
    assert ask(rollout, ToyWorker.begin, each([1, 2])).result().reports == (1, 2), "what was begun before is over"
    assert ask(rollout, ToyWorker.add, 10, batch=rows([made], [[5], [6]])).result().reports == (16, 18)
    counted = ask(rollout, ToyWorker.count, each(["", str(tmp_path / "died")])).result()
    assert counted.reports == (16, 18)
    assert counted.data is not None
    assert [ray.get(part.ref).dense("score").tolist() for part in counted.data.parts] == [[16.0], [18.0]]
    ((failure, worker),) = followed
    assert (failure.role, failure.rank, failure.kind, failure.log) == ("rollout", 1, "death", before["rollout"][1].log)
    assert groups.workers == {**before, "rollout": (before["rollout"][0], worker)}
    assert worker.pid != before["rollout"][1].pid
    assert (worker.rank, worker.node_id, worker.log) == (1, failure_place(before), failure.log)
    assert ask(rollout, ToyWorker.add, 1).result().reports == (17, 19)


def failure_place(workers: dict[str, tuple[WorkerInfo, ...]]) -> str:
    return workers["rollout"][1].node_id


def test_one_that_dies_idle_is_followed_while_others_work_and_again(groups: Groups, followed: Followed) -> None:
    ask(groups["rollout"], ToyWorker.begin, 7).result()
    policy = groups.workers["policy"]
    for _ in range(2):
        threading.Timer(0.5, os.kill, (groups.workers["rollout"][0].pid, signal.SIGKILL)).start()
        ask(groups["policy"], ToyWorker.linger, [0], 4).result()
    assert len(followed) == 2
    assert ask(groups["rollout"], ToyWorker.count).result().reports == (7, 7)
    assert groups.workers["policy"] == policy


def test_one_that_dies_when_it_has_answered_and_others_have_not_is_asked_again(
    groups: Groups, followed: Followed
) -> None:
    """What it had added is in its answer, and not in who takes its place."""
    rollout = groups["rollout"]
    ask(rollout, ToyWorker.begin, 7).result()
    threading.Timer(1.5, os.kill, (groups.workers["rollout"][0].pid, signal.SIGKILL)).start()
    assert ask(rollout, ToyWorker.add, 10, each([0.0, 5.0])).result().reports == (17, 17)
    assert [worker.rank for _, worker in followed] == [0]
    assert ask(rollout, ToyWorker.count).result().reports == (17, 17)


def test_where_another_has_failed_too_nobody_is_followed(groups: Groups, followed: Followed) -> None:
    """Its answer will not come, whoever takes the dead one's place."""
    with pytest.raises(RunFailed, match="its process died") as caught:
        ask(groups["rollout"], ToyWorker.lose_peer, 1).result()
    assert (caught.value.role, caught.value.rank, followed) == ("rollout", 1, [])


def test_one_that_does_not_answer_is_ended_and_followed(groups: Groups, followed: Followed) -> None:
    frozen = groups.workers["rollout"][1].pid
    os.kill(frozen, signal.SIGSTOP)
    assert groups["rollout"].call(declaration(ToyWorker.facts), deadline_s=3.0).result().reports[1]["pid"] != frozen
    ((failure, _),) = followed
    assert (failure.rank, failure.kind) == (1, "deadline")
    assert "frozen: rank 1" in failure.cause
    until = time.monotonic() + 10
    while os.path.exists(f"/proc/{frozen}") and time.monotonic() < until:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{frozen}")


def test_one_that_says_something_else_than_before_does_not_take_its_place(groups: Groups, followed: Followed) -> None:
    ask(groups["rollout"], ToyWorker.pid).result()
    victim = groups.workers["rollout"][1]
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(
        RunFailed, match="no other could take its place: pid does not say what it said before"
    ) as caught:
        ask(groups["policy"], ToyWorker.linger, [0], 30).result()
    assert (caught.value.role, caught.value.rank, caught.value.kind) == ("rollout", 1, "death")
    assert not followed
    with pytest.raises(RunFailed, match="no other could take its place"):
        ask(groups["policy"], ToyWorker.nothing).result()


def test_who_waits_for_others_is_not_followed_and_nobody_too_often(groups: Groups, followed: Followed) -> None:
    for _ in range(4):
        os.kill(groups.workers["rollout"][0].pid, signal.SIGKILL)
        if len(followed) == 3:
            break
        ask(groups["rollout"], ToyWorker.nothing).result()
    with pytest.raises(RunFailed, match="its process died: killed by a signal") as caught:
        ask(groups["rollout"], ToyWorker.nothing).result()
    assert (caught.value.role, len(followed)) == ("rollout", 3)


def test_a_rank_of_a_group_that_computes_together_ends_the_attempt(groups: Groups, followed: Followed) -> None:
    os.kill(groups.workers["policy"][0].pid, signal.SIGKILL)
    with pytest.raises(RunFailed, match="its process died: killed by a signal") as caught:
        ask(groups["rollout"], ToyWorker.linger, [0], 30).result()
    assert (caught.value.role, followed) == ("policy", [])
