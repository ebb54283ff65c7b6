"""What groups do when something goes wrong: the cause is named and nobody is waited for."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from distft.clients.asking import ask
from distft.common.errors import EnvironmentFallsShort, RunFailed, UserError
from distft.common.verb import declaration
from distft.groups.handles import WorkerInfo, together
from distft.groups.placement import Deadlines, Groups
from distft.launch.on_ray.guard import processes_of
from tests.ray.conftest import start, toy
from tests.ray.toy_worker import ToyWorker

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

SEEN_S = 30.0  # what is waited for takes a minute; a death is noticed in one or two seconds on an idle machine


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


def pids(groups: Groups) -> list[int]:
    return [worker.pid for workers in groups.workers.values() for worker in workers]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Groups]:
    """A group of two and an idle one."""
    groups = start(tmp_path, toy("policy", 2), toy("value"), attempt=3)
    yield groups
    groups.shutdown(kill=True)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Groups]:
    """A group of two."""
    groups = start(tmp_path, toy("policy", 2))
    yield groups
    groups.shutdown(kill=True)


def test_a_group_that_waits_for_nobody_is_asked_one_thing_more(pair: Groups) -> None:
    facts = ask(pair["value"], ToyWorker.facts)
    for call in (ask(pair["policy"], ToyWorker.fail, "value", 1), facts):
        with pytest.raises(RunFailed) as caught:
            call.result()
        assert caught.value.rank == 1, "the first failure ends all calls"
    assert facts.last(60).report["rank"] == 0
    with pytest.raises(RunFailed, match=r"no answer to linger within 0\.5 s"):
        ask(pair["value"], ToyWorker.linger, [0], 60).last(0.5)


def test_an_exception_names_the_rank_at_once_and_ends_the_attempt(pair: Groups) -> None:
    started = time.monotonic()
    with pytest.raises(RunFailed) as caught:
        together(ask(pair["policy"], ToyWorker.fail, "value", 1), ask(pair["value"], ToyWorker.linger, [0], 60))
    assert time.monotonic() - started < SEEN_S, "the other rank and group wait for a minute"
    failure, worker = caught.value, pair.workers["policy"][1]
    assert (failure.role, failure.rank, failure.node, failure.kind) == ("policy", 1, worker.node, "exception")
    assert (failure.cause, failure.stage) == ("ValueError: a defect", "about to fail: value")
    assert failure.log == worker.log
    log = Path(failure.log).read_text()
    assert "Traceback (most recent call last)" in log
    assert "[attempt 3 policy-1]" in log
    with pytest.raises(RunFailed, match="a defect"):
        ask(pair["value"], ToyWorker.nothing).result()


def test_a_failure_is_raised_to_whoever_waits_for_whatever(pair: Groups) -> None:
    failing = ask(pair["policy"], ToyWorker.fail, "value", 0).start()
    with pytest.raises(RunFailed, match="a defect"):
        ask(pair["value"], ToyWorker.linger, [0], 60).result()
    with pytest.raises(RunFailed, match="a defect"):
        failing.result()


def assert_death_is_seen(groups: Groups, victim: WorkerInfo) -> RunFailed:
    """A worker is killed while both ranks of the policy work for a minute: what ends the call, in time."""
    threading.Timer(0.5, os.kill, (victim.pid, signal.SIGKILL)).start()
    started = time.monotonic()
    with pytest.raises(RunFailed) as caught:
        ask(groups["policy"], ToyWorker.linger, [0, 1], 60).result()
    seen = time.monotonic() - started - 0.5
    print(f"death of {caught.value.role} rank {caught.value.rank} seen after {seen:.2f} s")
    assert seen < SEEN_S
    return caught.value


def test_the_death_of_a_busy_worker_is_seen(alone: Groups) -> None:
    victim = alone.workers["policy"][1]
    failure = assert_death_is_seen(alone, victim)
    assert (failure.role, failure.rank, failure.node, failure.kind) == ("policy", 1, victim.node, "death")
    assert failure.cause == "its process died: killed by a signal, or crashed"
    assert (failure.stage, failure.log) == ("lingering", victim.log)


def test_the_death_of_an_idle_worker_is_seen_while_another_group_works(pair: Groups) -> None:
    victim = pair.workers["value"][0]
    failure = assert_death_is_seen(pair, victim)
    assert (failure.role, failure.rank, failure.kind) == ("value", 0, "death")
    left = pids(pair)
    started = time.monotonic()
    pair.shutdown(kill=True)
    assert time.monotonic() - started < SEEN_S, "rank 0 and 1 of the policy still linger"
    assert alive(left) == []


def test_a_death_explains_the_broken_connections_that_it_causes(alone: Groups) -> None:
    """Rank 1 dies; rank 0's collective breaks and says so first."""
    with pytest.raises(RunFailed) as caught:
        ask(alone["policy"], ToyWorker.lose_peer, 1).result()
    assert (caught.value.rank, caught.value.kind) == (1, "death")


def test_a_deadline_names_the_silent_ranks_and_leaves_their_stacks(alone: Groups) -> None:
    """And then even a stopped process is ended."""
    with pytest.raises(RunFailed) as caught:
        alone["policy"].call(declaration(ToyWorker.linger), [1], 60, deadline_s=2.0).result()
    failure, silent = caught.value, alone.workers["policy"][1]
    assert (failure.role, failure.rank, failure.kind) == ("policy", 1, "deadline")
    assert failure.cause.startswith(f"no answer to linger within 2 s from rank 1 on {silent.node} at 'lingering'")
    assert (failure.stage, failure.log) == ("lingering", silent.log)
    log = Path(silent.log).read_text()
    assert "Timeout (0:00:01" in log
    assert "in linger" in log
    assert "Timeout" not in Path(alone.workers["policy"][0].log).read_text(), "rank 0 answered in time"
    left = pids(alone)
    os.kill(left[0], signal.SIGSTOP)
    started = time.monotonic()
    alone.shutdown(kill=True)
    assert time.monotonic() - started < 45
    assert alive(left) == []


def test_a_clean_end_closes_every_worker_and_gives_the_places_back(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    groups = start(tmp_path, toy("policy", spec={"trace": str(trace)}, cpus_per_rank=32))
    left = pids(groups)
    groups.shutdown()
    assert trace.read_text().splitlines() == ["close"]
    assert alive(left) == []
    groups.shutdown()
    # Only fits if the former places are free again.
    start(tmp_path, toy("policy", cpus_per_rank=32), attempt=2).shutdown(kill=True)
    log = (tmp_path / "logs" / "policy-0.log").read_text()
    assert log.index("[attempt 1 policy-0]") < log.index("[attempt 2 policy-0]")


def test_a_worker_that_cannot_be_built_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^models\.policy\.path: this model does not exist"):
        start(tmp_path, toy("policy", spec={"broken_rank": 0}), toy("value"))
    with pytest.raises(RunFailed) as caught:
        start(tmp_path, toy("policy", worker="tests.ray.toy_worker:Missing"))
    assert (caught.value.role, caught.value.rank, caught.value.stage) == ("policy", 0, "start")
    assert "AttributeError" in caught.value.cause
    ours = processes_of(os.path.dirname(os.environ["RAY_AUTH_TOKEN_PATH"]))
    assert alive([pid for pid in ours if "RankActor" in psutil.Process(pid).name()]) == []
    until = time.monotonic() + 5
    while ray.available_resources()["CPU"] < 32 and time.monotonic() < until:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 32


def test_places_taken_by_others_are_waited_for_and_then_named(tmp_path: Path) -> None:
    taken = ray.util.placement_group([{"CPU": 30}])
    assert taken.wait(30)
    try:
        with pytest.raises(EnvironmentFallsShort, match="no room for policy within 1 s: free are 2 CPUs, 2 GPUs"):
            start(tmp_path, toy("policy", 4), deadlines=Deadlines(1.0, 1.0, 1.0))
    finally:
        ray.util.remove_placement_group(taken)
