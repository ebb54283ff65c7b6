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

# The rises of such values are log(1.9 / 2.1) and log(2.1 / 1.9) by turns: half of them each, the median is 0 and the
# spread 1.4826 x log(2.1 / 1.9). The nine before the next have the median 1.9, so that a spike is above
# 1.9 x (2.1 / 1.9) ** (8 x 1.4826) = 6.2272, and confirmed by what is above 1.9 x (2.1 / 1.9) ** (4 x 1.4826) = 3.4398.
STEADY = [*[1.9, 2.1] * 12, 1.9]


def found(values: Sequence[float], name: str = "loss", **options: bool) -> list[tuple[int, bool]]:
    watchdog = Watchdog(falls=options.get("falls", False))
    rows = (watchdog.observe(step, {name: value}) for step, value in enumerate(values, 1))
    return [(spike.step, spike.confirmed) for row in rows for spike in row]


@pytest.mark.parametrize(("values", "told"), [
    ([*STEADY, 6.22], []),
    ([*STEADY, 6.23], [(26, False)]),
    ([*STEADY[1:], 100.0], []),  # of 24 too little is known
    ([*STEADY, 6.23, 3.43, 3.45], [(26, False)]),
    ([*STEADY, 6.23, 3.45], [(26, False), (26, True)]),
    ([*STEADY, 6.23, 3.45, 3.45, 2.0, 8.0], [(26, False), (26, True), (30, False)]),
    ([2.0] * 25 + [2.54], []),  # 2 exp(8 x 0.03) = 2.5425
    ([2.0] * 25 + [2.55], [(26, False)]),
    ([1.0] * 24 + [2.71828, 7.38], []),  # twice as large as the largest rise, as logarithms
    ([1.0] * 24 + [2.71828, 7.40], [(26, False)]),
    ([*[-0.1, 0.1] * 12, -0.1, 2.27], []),  # -0.1 + 8 x 1.4826 x 0.2 = 2.272
    ([*[-0.1, 0.1] * 12, -0.1, 2.28], [(26, False)]),
    ([0.9**step for step in range(60)] + [0.0038], []),  # 0.9 ** 55 exp(8 x 0.03) = 0.00387: it falls all the time
    ([0.9**step for step in range(60)] + [0.0039, 0.0035], [(61, False), (61, True)]),  # ... exp(0.12) = 0.00343
    ([1.1**step for step in range(90)], []),
    ([*STEADY, 0.0001, -5.0], []),  # a fall is none
])  # fmt: skip
def test_where_a_spike_begins_and_is_confirmed(values: list[float], told: list[tuple[int, bool]]) -> None:
    assert found(values) == told


def test_what_it_says() -> None:
    watchdog = Watchdog("policy", ["value"])
    for step, value in enumerate(STEADY, 1):
        assert not watchdog.observe(step, {"value/loss": value, "value/grad_norm": value})
    both = watchdog.observe(26, {"value/loss": 9.0, "value/grad_norm": 8.0, "loss": 1e9})
    assert both == [
        Spike("spike", 26, "value", "loss", 9.0, 1.9, 26), Spike("spike", 26, "value", "grad_norm", 8.0, 1.9, 26)
    ]  # fmt: skip
    assert [one.name for one in both] == ["loss spike", "gradient spike"]
    assert both[0].said == "the loss of the value jumped to 9; 1.9 is usual"
    (confirmed,) = watchdog.observe(27, {"value/loss": 8.0, "value/grad_norm": 2.0})
    assert confirmed == Spike("spike", 26, "value", "loss", 9.0, 1.9, 27, confirmed=True)


def test_a_level_that_lasts_is_the_usual_one_from_then_on() -> None:
    high = [8.0] * (LASTS + 25)
    assert found([*STEADY, *high, 9.0, 80.0]) == [(26, False), (26, True), (27 + len(high), False)]


def test_only_the_last_rises_are_usual() -> None:
    jump = [*[0.5] * 20, 1.0, *[0.5] * (WINDOW - 1)]  # a rise by log 2, so that twice that is more than to 1.9
    assert found([*jump, 1.9]) == []
    assert found([*jump, 0.5, 1.9]) == [(22 + WINDOW, False)]


def test_steps_without_a_number_without_a_gradient_or_of_the_warm_up_do_not_count() -> None:
    watchdog = Watchdog(warm_up=3)
    for step in range(1, 4):
        assert not watchdog.observe(step, {"loss": 50.0, "grad_norm": 50.0, "optimizer_steps": step})
    for step, value in enumerate(STEADY, 4):
        assert not watchdog.observe(step, {"loss": value, "grad_norm": value, "optimizer_steps": step})
    for step, nothing in enumerate((None, float("nan"), float("inf"), True, "much"), 29):
        assert not watchdog.observe(step, {"loss": nothing, "grad_norm": 0.0, "optimizer_steps": step})
    spikes = watchdog.observe(40, {"loss": 6.23, "grad_norm": 6.23, "optimizer_steps": 40})
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


def recorded() -> dict[str, dict[str, list[float]]]:
    """The losses and gradient norms that shipped recipes logged, to three digits."""
    return dict(json.loads(Path(__file__).with_name("healthy_runs.json").read_text()))


@pytest.mark.parametrize("recipe", recorded())
def test_what_shipped_recipes_logged_is_none(recipe: str) -> None:
    watchdog, metrics = watchdog_of(load_recipe(recipe)), recorded()[recipe]
    for step, row in enumerate(zip(*metrics.values(), strict=True), 1):
        assert not watchdog.observe(step, dict(zip(metrics, row, strict=True)))
    assert step >= 60


def test_a_run_tells_each_as_an_event_the_first_of_its_kind_as_an_alarm_and_the_same_after_a_resume(
    tmp_path: Path,
) -> None:
    values = [*STEADY, 9.0, 8.0, *STEADY, 9.0, 2.0]  # steps 26, 27 and 53

    def told(folder: Path, *parts: tuple[int | None, int]) -> list[dict[str, object]]:
        folder.mkdir()
        for attempt, (resume, end) in enumerate(parts, 1):
            with Tracker(folder, attempt=attempt, resume_step=resume) as tracker:
                for step in range((resume or 0) + 1, end + 1):
                    tracker.log(step, {"loss": values[step - 1]})
                    assert bool(tracker.spikes) == (step in (26, 27, 53)), step
        lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        return [
            {key: line[key] for key in ("event", "name", "step")} | {"metric": line.get("metric")} for line in lines
        ]

    whole = told(tmp_path / "whole", (None, len(values)))
    assert whole == [
        {"event": "spike", "name": "loss spike", "step": 26, "metric": "loss"},
        {"event": "alarm", "name": "loss spike", "step": 26, "metric": None},
        {"event": "spike", "name": "loss spike", "step": 53, "metric": "loss"},
    ]
    assert told(tmp_path / "parts", (None, 27), (26, 30), (30, len(values))) == whole


def test_it_looks_at_the_roles_of_the_recipe_behind_their_warm_up() -> None:
    watchdog = watchdog_of(load_recipe("ppo-tiny", ["models.value.optimizer.warmup_steps=7"]))
    for step in range(1, 60):
        jump = 100.0 if step in (7, 40) else 1.0
        spikes = watchdog.observe(step, {"value/loss": jump, "loss": jump, "optimizer_steps": step})
        assert [(one.role, one.metric) for one in spikes] == (
            [("policy", "loss"), ("value", "loss")] if step == 40 else []
        )
