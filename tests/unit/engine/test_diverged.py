from __future__ import annotations

import pickle

from distft.engine.diverged import NonFiniteGradients, NonFiniteLoss


def test_it_says_what_to_do_also_after_a_journey() -> None:
    error = pickle.loads(pickle.dumps(NonFiniteGradients("gradient norm is nan", 3e-4)))
    assert type(error) is NonFiniteGradients
    assert str(error).startswith("gradient norm is nan: the step was not taken\n  ")
    assert "checkpoint.resume=never optimizer.learning_rate=3e-05 " in str(error)


def test_a_pass_that_only_measures_takes_no_step() -> None:
    told = str(NonFiniteLoss("the loss is inf", None))
    assert "step" not in told
    assert "dtype=float32" in told
