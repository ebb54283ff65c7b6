"""Weights that one group leaves and another takes over, whatever the shards of either."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.unit.engine import rank_side
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import Setup


@pytest.mark.parametrize(("share", "stages", "dtype"), [(0.25, (3, 3), "float32"), (1.0, (0, 3), "bfloat16"),
                                                       (0.6, (3, 0), "bfloat16")])  # fmt: skip
def test_a_reference_takes_a_share_of_the_policy(
    groups: dict[int, Group], folder: str, tmp_path: Path, share: float, stages: tuple[int, int], dtype: str
) -> None:
    policy = Setup(folder, stages[0], dtype)
    reference = replace(policy, stage=stages[1], optimizer=None)
    answers = groups[2].call(rank_side.follow, policy, reference, str(tmp_path), share)
    assert len([*tmp_path.glob("weights-*.safetensors")]) > 1
    for theirs, before, after, again in answers:
        assert max(float(np.abs(theirs[name] - before[name]).max()) for name in before) > 1e-3
        for name, value in after.items():
            wanted = share * theirs[name].astype(np.float64) + (1 - share) * before[name]
            np.testing.assert_allclose(value, wanted, rtol=1e-6 if dtype == "float32" else 2**-8, atol=1e-9)
            assert (again[name] == value).all()
            if share == 1:
                assert (value == theirs[name]).all()


def test_weights_of_another_model_are_refused_by_all_ranks(
    groups: dict[int, Group], folder: str, untied: str, tmp_path: Path
) -> None:
    setup = Setup(folder, 3, optimizer=None)
    told = groups[2].call(rank_side.follow_another, setup, replace(setup, folder=untied), str(tmp_path))
    assert all("are not of a model with these parameters" in text for text in told)
