"""Pairs of sampled answers, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distft.algorithms.losses.base import LossBatch
from distft.algorithms.losses.dpo import Dpo
from distft.experience.credit.best_and_worst import best_and_worst, pairs_of
from tests.unit.experience.credit.test_group import Keys, rollout, values_of


def test_the_best_and_the_worst_of_each_prompt_are_a_pair() -> None:
    """Scores 1, 2, 6 of one prompt: rows 4 and 0. The other prompt's are equal: no pair, and it is counted."""
    assigned = best_and_worst(rollout(), Keys(), {})
    assert assigned.chosen is not None
    assert assigned.chosen.rows.tolist() == [4, 0]
    assert assigned.chosen.units.tolist() == [0, 0]
    reference = rollout().ragged("ref_logprobs")
    np.testing.assert_array_equal(values_of(assigned.columns["ref_logprobs"]), [*reference[4], *reference[0]])
    found = {name: assigned.metrics[name] for name in ("pairs/learned", "pairs/ties", "objective/scores_margin")}
    assert found == {"pairs/learned": 1, "pairs/ties": 1, "objective/scores_margin": 5}
    assert assigned.metrics["reward"] == pytest.approx(9.3 / 6)


def test_what_a_score_is_less_by_counts() -> None:
    """The answers of rows 3 and 4 were cut: 6 - 5.5 is the worst of its prompt, 0.1 - 5.5 of the other."""
    assigned = best_and_worst(rollout(), Keys(missing_eos_penalty=5.5), {})
    assert assigned.chosen is not None
    assert assigned.chosen.rows.tolist() == [1, 3, 2, 4]
    assert assigned.chosen.units.tolist() == [0, 0, 1, 1]
    assert assigned.metrics["objective/scores_margin"] == pytest.approx((5.5 + 1.5) / 2)


def test_of_equal_scores_the_first_sampled_is_taken() -> None:
    assert pairs_of(np.array([1.0, 0.0, 1.0, 0.0]), np.array([5, 5, 5, 5])).tolist() == [[0, 1]]


def test_there_may_be_no_pair() -> None:
    assigned = best_and_worst(rollout(score=np.full(6, 0.1, np.float32)), Keys(), {})
    assert assigned.chosen is not None
    assert assigned.chosen.rows.shape == assigned.chosen.units.shape == (0,)
    assert (assigned.metrics["pairs/learned"], assigned.metrics["pairs/ties"]) == (0, 2)
    assert "objective/scores_margin" not in assigned.metrics


@pytest.mark.parametrize("first_is_better", [True, False])
def test_the_loss_is_dpos_of_the_pair(first_is_better: bool) -> None:
    """-log sigmoid(beta (d_w - d_l)), d = log pi - log pi_ref of an answer: TRL 1.16's OnlineDPOTrainer, too."""
    scores = np.array([2.0, 1.0] if first_is_better else [1.0, 2.0], np.float32)
    whole = rollout().take([0, 2]).with_columns(score=scores)
    assigned = best_and_worst(whole, Keys(), {})
    assert assigned.chosen is not None
    won, lost = (0, 1) if first_is_better else (1, 0)
    assert assigned.chosen.rows.tolist() == [won, lost]
    moved = [torch.tensor([0.5, -0.25]), torch.tensor([-1.0, 0.0, 0.25])]  # log pi - log pi_ref, a token at a time
    lengths = [len(moved[row]) for row in (won, lost)]
    reference = torch.from_numpy(values_of(assigned.columns["ref_logprobs"]).copy())
    batch = LossBatch(
        torch.ones(5, dtype=torch.bool), torch.tensor([0] * lengths[0] + [1] * lengths[1]),
        torch.ones(2, dtype=torch.bool), {"ref_logprobs": reference},
    )  # fmt: skip
    logprobs = reference + torch.cat([moved[won], moved[lost]])
    found = Dpo(beta=0.3)({"logprobs": logprobs, "logits_mean": torch.zeros(5)}, batch, {"units": 1.0})
    apart = 0.25 - (-0.75) if first_is_better else -0.75 - 0.25
    assert float(found.loss) == pytest.approx(float(np.log1p(np.exp(-0.3 * apart))), rel=1e-6)
