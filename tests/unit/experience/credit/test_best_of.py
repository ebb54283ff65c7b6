"""The best of sampled answers, by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from distft.experience.credit.best_of import best_of, best_rows
from tests.unit.experience.credit.test_group import Keys as ScoreKeys
from tests.unit.experience.credit.test_group import rollout


@dataclass
class Keys(ScoreKeys):
    keep: int = 1
    min_score: float | None = None


@pytest.mark.parametrize(
    ("keys", "rows", "score"),
    [
        # Of prompt 3 (rows 1, 3, 5, all 0.1) the first sampled, of prompt 7 (rows 0, 2, 4: scores 1, 2, 6) the best.
        (Keys(), [1, 4], (0.1 + 6) / 2),
        (Keys(keep=2), [1, 3, 4, 2], (0.1 + 0.1 + 6 + 2) / 4),
        (Keys(keep=2, min_score=2.0), [4, 2], 4.0),
        # Cut answers (rows 3 and 4) lose 5.5: the best of prompt 7 is then row 2.
        (Keys(missing_eos_penalty=5.5), [1, 2], (0.1 + 2) / 2),
    ],
)
def test_the_best_of_each_prompt_are_kept(keys: Keys, rows: list[int], score: float) -> None:
    assigned = best_of(rollout(), keys, {})
    assert assigned.chosen is not None
    assert assigned.chosen.rows.tolist() == rows
    assert assigned.chosen.units.tolist() == list(range(len(rows)))
    assert assigned.columns == {}
    assert assigned.metrics["kept/learned"] == len(rows)
    assert assigned.metrics["kept/score"] == pytest.approx(score)
    assert assigned.metrics["frac_reward_zero_std"] == (0 if keys.missing_eos_penalty else 0.5)


def test_there_may_be_none() -> None:
    assigned = best_of(rollout(), Keys(min_score=6.5), {})
    assert assigned.chosen is not None
    assert assigned.chosen.rows.shape == assigned.chosen.units.shape == (0,)
    assert assigned.metrics["kept/learned"] == 0
    assert "kept/score" not in assigned.metrics


def test_a_prompt_with_fewer_answers_keeps_what_it_has() -> None:
    assert best_rows(np.array([1.0, 5.0, 2.0]), np.array([0, 1, 1]), 2).tolist() == [0, 1, 2]
