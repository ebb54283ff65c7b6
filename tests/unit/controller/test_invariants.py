"""A violated invariant stops the run and says which."""

from __future__ import annotations

import math

import pytest

from distft.config.load import load_recipe
from distft.controller.invariants import InvariantViolated, check_first_loss, check_generator, check_reference

RECIPE = load_recipe("ppo-tiny")


def test_rounding_passes() -> None:
    check_reference(RECIPE, 1e-6)
    check_generator(RECIPE, 1e-6)
    check_first_loss("DPO", math.log(2) + 1e-7, math.log(2), 1e-5)


@pytest.mark.parametrize("difference", [0.01, math.inf, math.nan])
def test_another_reference_is_named(difference: float) -> None:
    with pytest.raises(InvariantViolated, match="reference.*models.reference.differs"):
        check_reference(RECIPE, difference)


def test_a_reference_that_is_meant_to_differ_passes() -> None:
    meant = load_recipe("ppo-tiny", ["models.reference.differs=true", "models.reference.path=elsewhere"])
    check_reference(meant, 3.0)


@pytest.mark.parametrize("difference", [0.01, math.nan])
def test_a_stale_generator_is_named(difference: float) -> None:
    with pytest.raises(InvariantViolated, match="generator"):
        check_generator(RECIPE, difference)


@pytest.mark.parametrize("loss", [0.5, math.nan])
def test_a_first_loss_that_is_not_ln_2(loss: float) -> None:
    with pytest.raises(InvariantViolated, match="DPO loss"):
        check_first_loss("DPO", loss, math.log(2), 1e-5)


def test_it_is_a_failed_run() -> None:
    with pytest.raises(InvariantViolated) as caught:
        check_generator(RECIPE, 1.0)
    assert caught.value.exit_status == 1
    assert caught.value.kind == "invariant"
