from __future__ import annotations

import pickle

from distft.engine.diverged import NonFiniteGradients, NonFiniteLoss


def test_it_says_what_to_do_also_after_a_journey() -> None:
    error = pickle.loads(pickle.dumps(NonFiniteGradients("gradient norm", float("nan"), 3e-4)))
    assert type(error) is NonFiniteGradients
    assert str(error).startswith("gradient norm is nan: the step was not taken\n  ")
    assert "checkpoint.resume=never optimizer.learning_rate=3e-05 " in str(error)


def test_a_pass_that_only_measures_takes_no_step() -> None:
    told = str(NonFiniteLoss("the loss", float("inf"), None))
    assert "step" not in told
    assert "dtype=float32" in told


def test_it_says_how_many_were_left_out_before_it() -> None:
    error = pickle.loads(pickle.dumps(NonFiniteLoss("the loss", float("nan"), 3e-4).after(2)))
    assert type(error) is NonFiniteLoss
    assert "the loss is nan: the step was not taken, as in the 2 batches before it (recovery.max_skipped_steps)\n" in (
        str(error)
    )
