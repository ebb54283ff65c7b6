"""How many steps in a row may be left out, over several updates."""

from __future__ import annotations

import pytest

from distft.engine.diverged import Diverged, NonFiniteGradients, NonFiniteLoss
from distft.workers.skipping import Skipping

LOSS = NonFiniteLoss("the loss", float("nan"), 1e-3)
GRADIENT = NonFiniteGradients("gradient norm", float("inf"), 1e-3)


def test_one_that_is_taken_begins_a_new_row() -> None:
    skipping = Skipping(most=2, in_a_row=1)
    for failure in (LOSS, None, GRADIENT, LOSS):
        skipping.saw(failure)
    assert skipping.reasons == ["the loss is nan", "", "gradient norm is inf", "the loss is nan"]
    with pytest.raises(NonFiniteGradients) as caught:
        skipping.saw(GRADIENT)
    assert (caught.value.what, caught.value.skipped) == ("gradient norm is inf", 2)
    assert len(skipping.reasons) == 4


def test_those_of_the_update_before_count() -> None:
    with pytest.raises(Diverged) as caught:
        Skipping(most=3, in_a_row=3).saw(LOSS)
    assert caught.value.skipped == 3


def test_without_room_for_any_the_first_is_raised_as_it_is() -> None:
    with pytest.raises(NonFiniteLoss) as caught:
        Skipping().saw(LOSS)
    assert caught.value.skipped == 0
