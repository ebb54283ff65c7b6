from __future__ import annotations

import pytest

from distft.tracking.timing import PhaseTimer, Throughput, training_flops_per_token


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


def test_throughput_by_hand() -> None:
    report = Throughput(4, flops_per_token=6e9, peak_flops=1e12).report(1000, 2.0)
    assert report == {"perf/tokens_per_second": 500.0, "perf/tokens_per_second_per_gpu": 125.0, "perf/mfu": 0.75}


def test_throughput_without_a_known_peak_or_time() -> None:
    assert Throughput(2).report(10, 0.0) == {"perf/tokens_per_second": 0.0, "perf/tokens_per_second_per_gpu": 0.0}


def test_flops_by_hand() -> None:
    # 1 G parameters, 10 layers, hidden 1,000, 2,000 tokens of context: 6e9 + 12 * 10 * 1000 * 2000
    assert training_flops_per_token(10**9, 10, 1000, 2000) == pytest.approx(6.24e9)
