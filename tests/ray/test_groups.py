"""What groups do when nothing goes wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from distft.clients.asking import ask, each, rows
from distft.common.errors import EnvironmentFallsShort
from distft.common.verb import declaration
from distft.groups.handles import DataRef, Part, WorkerInfo, together
from distft.groups.placement import Groups
from distft.groups.worker_start import NOT_FORKED
from distft.launch.on_ray.cluster import Cluster
from distft.tracking.progress import GroupState
from tests.ray.conftest import ROOT, start, toy
from tests.ray.toy_worker import ToyWorker

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ready() -> list[tuple[str, int]]:
    """What ``on_ready`` was told."""
    return []


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the workers with devices did, line by line."""
    return tmp_path_factory.mktemp("trace") / "trace"


@pytest.fixture(scope="module")
def groups(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, trace: Path, ready: list[tuple[str, int]]
) -> Iterator[Groups]:
    """Eight workers: four groups, of which two share devices."""

    def note(role: str, workers: tuple[WorkerInfo, ...]) -> None:
        ready.append((role, len(workers)))

    spec = {"trace": str(trace)}
    with start(
        tmp_path_factory.mktemp("run"),
        toy("policy", 4, node_of_rank=(0, 0, 0, 0)),
        toy("value", 2, spec=spec),
        toy("trainer", device_set="shared", gpus_per_rank=1, spec=spec),
        toy("generator", device_set="shared", gpus_per_rank=1, spec=spec),
        on_ready=note,
    ) as started:
        yield started


def traced(trace: Path) -> list[str]:
    """The lines since the last look."""
    lines = trace.read_text().splitlines() if trace.exists() else []
    trace.write_text("")
    return lines


# ---- workers


def test_workers_know_who_and_where_they_are(groups: Groups, ready: list[tuple[str, int]]) -> None:
    facts = ask(groups["policy"], ToyWorker.facts).result().reports
    workers = groups.workers["policy"]
    assert [fact["rank"] for fact in facts] == [worker.rank for worker in workers] == [0, 1, 2, 3]
    assert [fact["pid"] for fact in facts] == [worker.pid for worker in workers]
    assert {(fact["world_size"], fact["threads"], fact["word"]) for fact in facts} == {(4, "3", "policy")}
    assert [fact["local_rank"] for fact in facts] == [0, 1, 2, 3]
    assert sorted(ready) == [("generator", 1), ("policy", 4), ("trainer", 1), ("value", 2)]
    assert list(groups) == ["policy", "value", "trainer", "generator"], "in the order asked for"


def test_the_driver_is_told_of_ranks_that_could_not_be_forked(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server_log = tmp_path / "server.log"
    server_log.write_text("Traceback\nRuntimeError: toy starts threads when it is imported\n")
    told = {"env": {"PYTHONPATH": ROOT, NOT_FORKED: str(server_log)}}
    start(tmp_path, toy("policy", 2, **told), toy("value")).shutdown()
    (said,) = [record.getMessage() for record in caplog.records if "could not be forked" in record.getMessage()]
    assert said.startswith("policy: 2 of 2 ranks could not be forked, and import by themselves, which is slow; on ")
    assert said.endswith(": RuntimeError: toy starts threads when it is imported")


def test_all_verbs_of_a_rank_run_on_one_thread(groups: Groups) -> None:
    threads = [
        tuple(fact["thread"] for fact in ask(groups["policy"], ToyWorker.facts).result().reports) for _ in range(5)
    ]
    assert len(set(threads)) == 1


def test_every_way_of_output_ends_in_the_log_of_the_rank(groups: Groups) -> None:
    ask(groups["value"], ToyWorker.speak, "hello").result()
    for worker in groups["value"].workers:
        text = Path(worker.log).read_text()
        assert Path(worker.log).name == f"value-{worker.rank}.log"
        for way in ("print hello", "print stderr hello", "descriptor hello", "logging hello"):
            assert text.count(f"{way}\n") == 1, way
        assert f"attempt 1: value rank {worker.rank} of 2, pid {worker.pid} on {worker.node}" in text


def test_groups_that_share_devices_see_the_same_ones(groups: Groups) -> None:
    """The GPUs are only claimed; Ray hands them out all the same."""
    seen = {role: ask(groups[role], ToyWorker.facts).result().report["gpus"] for role in groups}
    assert seen["trainer"] == seen["generator"]
    assert seen["trainer"] in ("0", "1")
    assert seen["policy"] in ("", None)
    assert groups.workers["trainer"][0].devices == (seen["trainer"],)


# ---- dispatch


def test_arguments_are_the_same_for_all_or_each_ranks_own(groups: Groups) -> None:
    result = ask(groups["value"], ToyWorker.echo, "all", each([1, 2]), word="w").result()
    assert result.reports == ((("all", 1), {"word": "w"}), (("all", 2), {"word": "w"}))
    assert result.report == result.reports[0]
    assert result.data is None


def test_declared_ranks_run_and_declared_reports_travel(groups: Groups) -> None:
    assert ask(groups["policy"], ToyWorker.host_store).result().reports == ((groups["policy"].workers[0].node_ip, 0),)
    assert ask(groups["policy"], ToyWorker.quiet).result().reports == (0, None, None, None)


def test_calls_that_cannot_be_right_are_refused_before_anything_is_sent(groups: Groups) -> None:
    value = groups["value"]
    with pytest.raises(AttributeError, match="declaration"):
        ask(value, ToyWorker.take_peaks)  # type: ignore[arg-type]  # no verb
    with pytest.raises(ValueError, match=r"value\.echo: each has 1 entries for 2 ranks"):
        ask(value, ToyWorker.echo, each([1]))
    with pytest.raises(ValueError, match="samples without data"):
        ask(value, ToyWorker.double, batch=rows([], [[1], [2]]))
    with pytest.raises(ValueError, match="samples 2 are not among the 1 here"):
        ask(value, ToyWorker.double, batch=rows([DataRef((Part(None, (1,)),))], [[1], [2]]))


def test_rows_reach_the_rank_that_asked_for_them(groups: Groups) -> None:
    made = ask(groups["policy"], ToyWorker.make, list(range(10))).result()
    assert made.reports == (3, 3, 2, 2)
    assert made.data is not None
    assert [part.samples for part in made.data.parts] == [(0, 4, 8), (1, 5, 9), (2, 6), (3, 7)]
    doubled = ask(groups["value"], ToyWorker.double, batch=rows([made.data], [[9, 0, 3], []])).result()
    assert [report["samples"] for report in doubled.reports] == [[9, 0, 3], []]
    assert doubled.data is not None
    assert doubled.data.samples == (9, 0, 3), "a rank without samples holds no part"
    both = ask(groups["value"], ToyWorker.double, batch=rows([made.data, doubled.data], [[3], [0, 9]])).result()
    assert both.reports[1]["columns"] == ["doubled", "sample", "score", "values"]
    assert both.reports[1]["values"][:3] == [0.0, 0.0, 0.0]


def test_large_results_are_read_without_a_copy(groups: Groups) -> None:
    made = ask(groups["trainer"], ToyWorker.make, [1, 2], 200_000).result()
    assert made.data is not None
    read = ask(groups["value"], ToyWorker.double, batch=rows([made.data], [[1, 2], []])).result()
    assert read.report["shared"]


def test_the_drivers_memory_does_not_grow_with_the_data(groups: Groups) -> None:
    """Ten times the data, 160 MB a round, leaves the driver where it was."""
    process = psutil.Process()

    def round_trip(length: int) -> int:
        made = ask(groups["policy"], ToyWorker.make, list(range(40)), length).result()
        assert made.data is not None
        sizes = ask(groups["value"], ToyWorker.size, batch=rows([made.data], [range(20), range(20, 40)])).result()
        assert sizes.reports == (20 * length, 20 * length)
        return int(process.memory_info().rss)

    round_trip(100_000)
    small = round_trip(100_000)
    large = max(round_trip(1_000_000) for _ in range(3))
    print(f"driver rss: {small / 2**20:.1f} MiB with 16 MB of data, {large / 2**20:.1f} MiB with 160 MB")
    assert large - small < 16 * 2**20


# ---- lanes


def test_groups_that_share_devices_take_turns_and_results_keep_their_order(groups: Groups, trace: Path) -> None:
    together(ask(groups["trainer"], ToyWorker.work, "settle"), ask(groups["generator"], ToyWorker.work, "settle"))
    traced(trace)
    groups.take_busy(), groups.take_peaks(), groups.take_spans()
    asked = time.time()
    trainer, generator = groups["trainer"], groups["generator"]
    results = together(
        ask(generator, ToyWorker.work, "generate", 0.1),
        ask(trainer, ToyWorker.work, "train", 0.1),
        ask(trainer, ToyWorker.work, "again"),
    )
    assert [result.report for result in results] == ["generate", "train", "again"]
    assert traced(trace) == [
        "generate begins", "generate ends", "sleep weights states", "wake weights", "train begins", "train ends",
        "again begins", "again ends",
    ]  # fmt: skip
    busy, peaks = groups.take_busy(), groups.take_peaks()
    done = {(span.who, span.what): span for span in groups.take_spans() if span.rank == 0}
    assert [*done] == [("generator", "work"), ("generator", "sleep"), ("trainer", "wake"), ("trainer", "work")]
    assert all(asked < span.start < span.start + span.seconds < time.time() for span in done.values())
    assert busy.computing >= 0.2
    assert 0.1 <= busy.moving < busy.computing + busy.moving < time.time() - asked, "sleep and wake are no computing"
    assert peaks == {role: {"allocated_peak": 9 + groups[role].num_ranks} for role in ("trainer", "generator")}
    ask(generator, ToyWorker.facts).result()
    assert traced(trace) == [], "a verb that needs no devices wakes nobody"
    working = ask(trainer, ToyWorker.work, "on", 0.1).start()
    assert {role: state.doing for role, state in groups.states().items()} == {
        "policy": "idle", "value": "idle", "trainer": "work", "generator": "asleep",
    }  # fmt: skip
    working.result()
    assert groups.states()["trainer"] == GroupState(trainer.num_ranks, "idle")
    traced(trace), groups.take_busy()
    assert groups.take_busy() == (0.0, 0.0)


def test_groups_on_different_devices_work_at_once(groups: Groups, trace: Path) -> None:
    traced(trace)
    together(ask(groups["trainer"], ToyWorker.work, "one", 1.0), ask(groups["value"], ToyWorker.work, "two", 1.0))
    lines = [line for line in traced(trace) if not line.startswith(("sleep", "wake"))]
    assert sorted(lines[:3]) == ["one begins", "two begins", "two begins"]


def test_a_started_call_goes_on_while_others_are_asked_and_keeps_its_place_on_its_devices(
    groups: Groups, trace: Path
) -> None:
    ask(groups["trainer"], ToyWorker.work, "settle").result()
    traced(trace)
    slow = ask(groups["trainer"], ToyWorker.work, "slow", 0.5).start()
    behind = ask(groups["generator"], ToyWorker.work, "behind").start()
    assert ask(groups["policy"], ToyWorker.quiet).result().report == 0
    assert traced(trace) == ["slow begins"], "a quick call of another group did not wait for it"
    assert behind.result().report == "behind"
    assert slow.result().report == "slow"
    lines = [line for line in traced(trace) if not line.startswith(("sleep", "wake"))]
    assert lines == ["slow ends", "behind begins", "behind ends"]


def test_answers_that_lay_ready_beyond_their_deadline_are_in_time(groups: Groups) -> None:
    """The driver was busy with something else."""
    echo = groups["policy"].call(declaration(ToyWorker.echo), 1, deadline_s=0.3).start()
    time.sleep(0.6)
    assert echo.result().reports == (((1,), {}),) * 4


# ---- placement


def test_what_the_cluster_can_never_hold_is_refused_at_once(cluster: Cluster, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(
        EnvironmentFallsShort, match="ask for 64 CPUs, 4 GPUs in all; the cluster has .*: 32 CPUs, 2 GPUs"
    ):
        start(tmp_path, toy("policy", 4, cpus_per_rank=16, gpus_per_rank=1))
    with pytest.raises(EnvironmentFallsShort, match="2 nodes"):
        start(tmp_path, toy("policy", 2, node_of_rank=(0, 1)))
    assert time.monotonic() - started < 20
    assert not (tmp_path / "logs").exists()
