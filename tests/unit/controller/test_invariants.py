"""What the step-0 invariants let pass and what they stop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from distft.common.errors import RunFailed
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.controller.invariants import (
    SAME_WEIGHTS,
    InvariantViolated,
    check_first_loss,
    check_generator,
    check_reference,
)


def recipe(*overrides: str) -> Recipe:
    return load_recipe("ppo-tiny", overrides)


def test_rounding_passes() -> None:
    for check in (check_generator, check_reference):
        check(recipe(), 0.0)
        check(recipe(), SAME_WEIGHTS["float32"])


@pytest.mark.parametrize("difference", [2e-3, 0.4, math.inf, math.nan])
def test_a_stale_generator_stops_the_run(difference: float) -> None:
    with pytest.raises(InvariantViolated, match="the generator's log-probs differ from the trainer's by") as caught:
        check_generator(recipe(), difference)
    assert isinstance(caught.value, RunFailed)
    assert caught.value.exit_status == 1
    assert "did not reach the generator" in str(caught.value)


@pytest.mark.parametrize("difference", [2e-3, 5.0, math.nan])
def test_another_reference_stops_the_run_and_names_the_key(difference: float) -> None:
    with pytest.raises(InvariantViolated, match=r"models\.reference\.differs: true"):
        check_reference(recipe(), difference)


def test_a_reference_that_is_meant_to_differ_passes(tmp_path: Path) -> None:
    meant = recipe("models.reference.differs=true", f"models.reference.path={tmp_path}")
    check_reference(meant, 5.0)
    with pytest.raises(InvariantViolated):  # that says nothing of the generator
        check_generator(meant, 5.0)


def test_bfloat16_rounds_more_and_still_not_anything() -> None:
    rough = recipe("models.policy.dtype=bfloat16")
    check_generator(rough, 0.05)
    with pytest.raises(InvariantViolated):
        check_generator(rough, 1.0)


@pytest.mark.parametrize(("loss", "passes"), [(math.log(2), True), (0.6932, True), (0.68, False), (math.nan, False)])
def test_the_first_dpo_loss_is_log_two(loss: float, passes: bool) -> None:
    arguments: Any = ("DPO", loss, math.log(2), 1e-3)
    if passes:
        check_first_loss(*arguments)
        return
    with pytest.raises(InvariantViolated, match="the DPO loss is"):
        check_first_loss(*arguments)
