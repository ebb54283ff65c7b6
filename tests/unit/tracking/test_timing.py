from __future__ import annotations

import time

import pytest

from distft.tracking.timing import Busy, PhaseTimer, Span, Throughput, at_work


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_phases_add_up_and_the_rest_is_idle(clock: Clock) -> None:
    timer = PhaseTimer(clock)
    for seconds in (2.0, 3.0):
        with timer.phase("rollout"):
            clock.now += seconds
    clock.now += 1.0
    with timer.phase("update"):
        clock.now += 4.0
    report = timer.report()
    assert report == {"timing/rollout": 5.0, "timing/update": 4.0, "timing/step": 10.0, "timing/idle_share": 0.1}


def test_an_inner_phase_stops_the_outers_clock(clock: Clock) -> None:
    timer = PhaseTimer(clock)
    with timer.phase("update"):
        clock.now += 1.0
        with timer.phase("weight_sync"):
            clock.now += 2.0
        clock.now += 4.0
    report = timer.report()
    assert (report["timing/update"], report["timing/weight_sync"], report["timing/idle_share"]) == (5.0, 2.0, 0.0)


def test_every_report_starts_over_and_an_open_phase_goes_on(clock: Clock) -> None:
    timer = PhaseTimer(clock)
    with timer.phase("rollout"):
        clock.now += 1.0
        assert timer.report()["timing/rollout"] == 1.0
        clock.now += 2.0
    assert timer.report() == {"timing/rollout": 2.0, "timing/step": 2.0, "timing/idle_share": 0.0}
    assert timer.report() == {"timing/step": 0.0, "timing/idle_share": 0.0}


def test_a_phase_that_fails_is_closed(clock: Clock) -> None:
    timer = PhaseTimer(clock)

    def failing() -> None:
        with timer.phase("rollout"):
            clock.now += 1.0
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    clock.now += 1.0
    assert timer.report()["timing/idle_share"] == 0.5


def test_of_each_phase_what_was_moved_and_what_was_waited_for(clock: Clock) -> None:
    answers = iter([Busy(9.0, 9.0), Busy(), Busy(1.0, 0.5), Busy(0.25, 0.0), Busy(2.0, 0.0), Busy()])
    next(answers)  # of a step before
    timer = PhaseTimer(clock, lambda: next(answers))
    with timer.phase("rollout"):
        clock.now += 2.0
    clock.now += 1.0
    with timer.phase("update"):
        clock.now += 2.0
    report = timer.report()
    assert (report["timing/rollout/wait"], report["timing/rollout/transfer"]) == (0.5, 0.5)
    assert report["timing/update/wait"] == 0.0
    assert "timing/update/transfer" not in report
    assert report["perf/idle_fraction"] == pytest.approx(1 - 3.25 / 5)


def test_phases_as_spans_of_unix_time_an_interrupted_one_in_parts(clock: Clock) -> None:
    timer, now = PhaseTimer(clock), time.time()
    with timer.phase("outer"):
        clock.now += 2.0
        with timer.phase("inner"):
            clock.now += 1.0
        clock.now += 3.0
    spans = timer.take_spans()
    assert [(span.who, span.what, span.seconds) for span in spans] == [
        ("controller", "outer", 2.0), ("controller", "inner", 1.0), ("controller", "outer", 3.0),
    ]  # fmt: skip
    assert spans[0].start == pytest.approx(now, abs=5)
    assert [span.start - spans[0].start for span in spans] == pytest.approx([0.0, 2.0, 3.0])
    assert timer.take_spans() == []


def test_throughput_by_hand() -> None:
    report = Throughput(4, flops=lambda lengths: 6e9 * sum(lengths), peak_flops=1e12).report((400, 600), 2.0)
    assert report == {"perf/tokens_per_second": 500.0, "perf/tokens_per_second_per_gpu": 125.0, "perf/mfu": 0.75}


def test_throughput_without_a_known_peak_or_time() -> None:
    nothing = {"perf/tokens_per_second": 0.0, "perf/tokens_per_second_per_gpu": 0.0}
    assert Throughput(2).report((10,), 0.0) == nothing
    assert Throughput(2, flops=lambda _: 1.0, peak_flops=1.0).report((10,), 0.0) == nothing
    assert "perf/mfu" not in Throughput(2, flops=lambda _: 1.0).report((10,), 1.0)


def test_how_much_of_a_step_each_role_was_at_work() -> None:
    spans = [
        Span("policy", 0, "update", 0.0, 3.0), Span("policy", 0, "forward", 3.0, 1.0),
        Span("policy", 1, "update", 0.0, 2.0), Span("reward", 0, "forward", 3.0, 1.0),
    ]  # fmt: skip
    assert at_work(spans, 0.0, 10.0) == {"perf/busy/policy": 0.3, "perf/busy/reward": 0.1}
    assert at_work(spans, 0.0, 0.0) == at_work([], 0.0, 1.0) == {}
    # Rank 0 of the policy from 2 to 4, rank 1 in none of it, the reward model from 3 to 4.
    assert at_work(spans, 2.0, 6.0) == {"perf/busy/policy": 0.5, "perf/busy/reward": 0.25}
