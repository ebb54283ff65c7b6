"""Spikes and divergence: where they begin, are confirmed and are over, by hand; and that noise is none."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from distft.config.load import load_recipe
from distft.controller.spikes import watchdog_of
from distft.tracking.tracker import Tracker
from distft.tracking.watchdog import LASTS, WINDOW, Spike, Watchdog

# Half 1.9, half 2.1: the median of the logarithms is that of sqrt(1.9 x 2.1) = 1.9975, all of them are half of
# log(2.1 / 1.9) from it, so that a spike is above 1.9975 x (2.1 / 1.9) ** (8 x 1.4826 / 2) = 3.6163, and confirmed by
# what is above 1.9975 x (2.1 / 1.9) ** (4 x 1.4826 / 2) = 2.6877.
STEADY = [1.9, 2.1] * 10


def found(values: Sequence[float], name: str = "loss", **options: bool) -> list[tuple[int, bool]]:
    watchdog = Watchdog(falls=options.get("falls", False))
    rows = (watchdog.observe(step, {name: value}) for step, value in enumerate(values, 1))
    return [(spike.step, spike.confirmed) for row in rows for spike in row]


@pytest.mark.parametrize(("values", "told"), [
    ([*STEADY, 3.61], []),
    ([*STEADY, 3.62], [(21, False)]),
    ([*STEADY[:19], 3.62], []),  # of 19 nothing is known
    ([*STEADY, 3.62, 2.68, 2.69], [(21, False)]),
    ([*STEADY, 3.62, 2.69], [(21, False), (21, True)]),
    ([*STEADY, 3.62, 2.69, 2.69, 2.0, 3.62], [(21, False), (21, True), (25, False)]),
    ([2.0] * 20 + [2.54], []),  # 2 exp(8 x 0.03) = 2.5425
    ([2.0] * 20 + [2.55], [(21, False)]),
    ([1.0] * 19 + [2.71828, 7.38], []),  # twice as far as the furthest, as logarithms
    ([1.0] * 19 + [2.71828, 7.39], [(21, False)]),
    ([-0.1, 0.1] * 10 + [1.18], []),  # 8 x 1.4826 x 0.1 = 1.186
    ([-0.1, 0.1] * 10 + [1.19], [(21, False)]),
    ([*STEADY, 0.0001, -5.0], []),  # a fall is none
])  # fmt: skip
def test_where_a_spike_begins_and_is_confirmed(values: list[float], told: list[tuple[int, bool]]) -> None:
    assert found(values) == told


def test_what_it_says() -> None:
    watchdog = Watchdog("policy", ["value"])
    for step, value in enumerate(STEADY, 1):
        assert not watchdog.observe(step, {"value/loss": value, "value/grad_norm": value})
    both = watchdog.observe(21, {"value/loss": 9.0, "value/grad_norm": 8.0, "loss": 1e9})
    assert both == [
        Spike("spike", 21, "value", "loss", 9.0, 2.0, 21), Spike("spike", 21, "value", "grad_norm", 8.0, 2.0, 21)
    ]  # fmt: skip
    assert [one.name for one in both] == ["loss spike", "gradient spike"]
    assert both[0].said == "the loss of the value jumped to 9; 2 is usual"
    (confirmed,) = watchdog.observe(22, {"value/loss": 8.0, "value/grad_norm": 2.0})
    assert confirmed == Spike("spike", 21, "value", "loss", 9.0, 2.0, 22, confirmed=True)


def test_a_level_that_lasts_is_the_usual_one_from_then_on() -> None:
    high = [8.0] * (LASTS + 20)
    assert found([*STEADY, *high, 9.0, 80.0]) == [(21, False), (21, True), (22 + len(high), False)]


def test_only_the_last_values_are_usual() -> None:
    assert found([*[30.0] * 20, *[2.0] * WINDOW, 3.0]) == [(21 + WINDOW, False)]
    assert found([*[30.0] * 20, *[2.0] * (WINDOW - 1), 3.0]) == [], "twice as far as one of 30"


def test_steps_without_a_number_without_a_gradient_or_of_the_warm_up_do_not_count() -> None:
    watchdog = Watchdog(warm_up=3)
    for step in range(1, 4):
        assert not watchdog.observe(step, {"loss": 50.0, "grad_norm": 50.0, "optimizer_steps": step})
    for step, value in enumerate(STEADY, 4):
        assert not watchdog.observe(step, {"loss": value, "grad_norm": value, "optimizer_steps": step})
    for step, nothing in enumerate((None, float("nan"), float("inf"), True, "much"), 24):
        assert not watchdog.observe(step, {"loss": nothing, "grad_norm": 0.0, "optimizer_steps": step})
    spikes = watchdog.observe(30, {"loss": 3.62, "grad_norm": 3.62, "optimizer_steps": 30})
    assert [spike.metric for spike in spikes] == ["loss", "grad_norm"]


@pytest.mark.parametrize(("end", "told"), [
    ([3.1] * 19, []), ([3.1] * 20, [(11, True)]), ([3.1] * 40, [(11, True)]), ([3.0] * 40, []),
    ([*[3.1] * 19, 2.9, *[3.1] * 20], [(31, True)]),
])  # fmt: skip
def test_a_loss_far_above_its_start_for_twenty_steps_is_a_divergence(
    end: list[float], told: list[tuple[int, bool]]
) -> None:
    values = [*[2.0] * 10, *end]
    assert found(values, falls=True) == told
    assert found(values) == [], "of sampled answers it says nothing"


@pytest.mark.parametrize("draw", [
    lambda: random.gauss(2, 0.1), lambda: random.gauss(0, 0.03), lambda: random.lognormvariate(0, 1),
    lambda: random.expovariate(1),
], ids=["loss", "policy-loss", "log-normal", "exponential"])  # fmt: skip
def test_noise_is_no_spike(draw: Callable[[], float]) -> None:
    random.seed(5)
    assert found([draw() for _ in range(20_000)], falls=True) == []


def test_a_run_tells_each_as_an_event_the_first_of_its_kind_as_an_alarm_and_the_same_after_a_resume(
    tmp_path: Path,
) -> None:
    values = [*STEADY, 9.0, 8.0, *STEADY, 9.0, 2.0]

    def told(folder: Path, *parts: tuple[int | None, int]) -> list[dict[str, object]]:
        folder.mkdir()
        for attempt, (resume, end) in enumerate(parts, 1):
            with Tracker(folder, attempt=attempt, resume_step=resume) as tracker:
                for step in range((resume or 0) + 1, end + 1):
                    tracker.log(step, {"loss": values[step - 1]})
                    assert bool(tracker.spikes) == (step in (21, 22, 43)), step
        lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        return [
            {key: line[key] for key in ("event", "name", "step")} | {"metric": line.get("metric")} for line in lines
        ]

    whole = told(tmp_path / "whole", (None, len(values)))
    assert whole == [
        {"event": "spike", "name": "loss spike", "step": 21, "metric": "loss"},
        {"event": "alarm", "name": "loss spike", "step": 21, "metric": None},
        {"event": "spike", "name": "loss spike", "step": 43, "metric": "loss"},
    ]
    assert told(tmp_path / "parts", (None, 22), (21, 30), (30, len(values))) == whole


def test_it_looks_at_the_roles_of_the_recipe_behind_their_warm_up() -> None:
    watchdog = watchdog_of(load_recipe("ppo-tiny", ["models.value.optimizer.warmup_steps=7"]))
    for step in range(1, 60):
        jump = 100.0 if step in (7, 40) else 1.0
        spikes = watchdog.observe(step, {"value/loss": jump, "loss": jump, "optimizer_steps": step})
        assert [(one.role, one.metric) for one in spikes] == (
            [("policy", "loss"), ("value", "loss")] if step == 40 else []
        )
