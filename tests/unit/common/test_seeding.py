from __future__ import annotations

import logging
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch

from distft.common.seeding import derive, restore_rng_state, rng_state, seed_everything


def draws() -> list[Any]:
    return [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(3).tolist(), torch.randn(3).tolist()]


def test_derive_is_the_same_everywhere() -> None:
    # Fixed numbers: a change here changes every run's data order and samples.
    assert derive(1, "rollout", 3, 0) == 4245214087131515837
    assert derive(0) == 5002178623122376926


def test_derive_keeps_names_and_numbers_apart() -> None:
    seeds = [derive(1), derive(2), derive(1, "a"), derive(1, "b"), derive(1, 1), derive(1, "1"), derive(1, "a", "b"),
             derive(1, "ab"), derive(1, -1), derive(1, 2**70)]  # fmt: skip
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derive_takes_numpy_integers() -> None:
    assert derive(1, np.int64(7)) == derive(1, 7)
    with pytest.raises(AttributeError):
        derive(1, 0.5)  # type: ignore[arg-type]


def test_seed_everything_repeats_every_generator() -> None:
    seed_everything(2**62 + 5)
    first = draws()
    seed_everything(2**62 + 5)
    assert draws() == first
    seed_everything(6)
    assert draws() != first


def test_rng_state_survives_pickle_and_goes_on_exactly() -> None:
    seed_everything(3)
    draws()
    random.gauss(0, 1)  # leaves half a pair behind, as numpy's randn does
    state = pickle.loads(pickle.dumps(rng_state()))
    expected = draws()
    draws()
    restore_rng_state(state)
    assert draws() == expected


def test_restore_says_so_when_devices_changed(caplog: pytest.LogCaptureFixture) -> None:
    state = {**rng_state(), "cuda": [b"\0" * 16] * (torch.cuda.device_count() + 1)}
    if torch.cuda.is_available():
        state["cuda"] = [*rng_state()["cuda"], b"\0" * 16]
    with caplog.at_level(logging.WARNING):
        restore_rng_state(state)
    assert "not bit-equal" in caplog.text
