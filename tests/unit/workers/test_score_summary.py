"""What is said of a scored rollout, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from distft.batches import Ragged
from distft.workers.score_summary import score_summary
from tests.harness.rollouts import rollout


def test_means_over_samples() -> None:
    found = score_summary(rollout())
    assert found == pytest.approx({"score": 0.0, "score_std": 1.0, "kl": 0.5, "length": 1.5, "ended": 0.5})


def test_observations_are_in_no_mean() -> None:
    masked = rollout(response_mask=Ragged.of([[0, 1], [1]], np.uint8), turns=np.array([2, 1]))
    found = score_summary(masked)
    assert found == pytest.approx(
        {"score": 0.0, "score_std": 1.0, "kl": 0.25, "length": 1.0, "ended": 0.5, "turns": 1.5}
    )
