"""In how many batches in a row steps may be left out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from distft.engine.diverged import Diverged, NonFiniteGradients, NonFiniteLoss
from distft.workers.skipping import Skipping, batches_in_a_row

LOSS = NonFiniteLoss("the loss", float("nan"), 1e-3)
GRADIENT = NonFiniteGradients("gradient norm", float("inf"), 1e-3)


def test_one_batch_is_one_however_many_of_its_steps_are_left_out() -> None:
    """PPO takes 4 epochs x 4 minibatches of it."""
    skipping = Skipping(most=1)
    for failure in (LOSS, None, *[GRADIENT] * 14):
        skipping.saw(failure)
    assert skipping.reasons == ["the loss is nan", "", *["gradient norm is inf"] * 14]
    with pytest.raises(NonFiniteGradients) as caught:
        Skipping(most=1, before=1).saw(GRADIENT)
    assert (caught.value.what, caught.value.skipped) == ("gradient norm is inf", 1)


@pytest.mark.parametrize(("before", "reasons", "row"), [
    (0, ["", ""], 0), (2, ["", ""], 0), (2, ["bad", "bad"], 3), (2, ["bad", ""], 0), (2, ["", "bad"], 1),
    (2, ["bad", "", "bad"], 1), (2, [], 2),
])  # fmt: skip
def test_a_step_that_is_taken_ends_the_row(before: int, reasons: Sequence[str], row: int) -> None:
    assert batches_in_a_row(before, reasons) == row


def test_a_batch_whose_first_step_is_taken_begins_a_new_row() -> None:
    skipping = Skipping(most=2, before=2)
    for failure in (None, LOSS):
        skipping.saw(failure)
    assert batches_in_a_row(2, skipping.reasons) == 1


def test_those_of_the_update_before_count() -> None:
    with pytest.raises(Diverged) as caught:
        Skipping(most=3, before=3).saw(LOSS)
    assert caught.value.skipped == 3


def test_without_room_for_any_the_first_is_raised_as_it_is() -> None:
    with pytest.raises(NonFiniteLoss) as caught:
        Skipping().saw(LOSS)
    assert caught.value.skipped == 0
