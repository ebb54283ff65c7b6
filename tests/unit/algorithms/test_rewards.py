from __future__ import annotations

import json

import pytest
import torch

from distft.algorithms.masking import Moments
from distft.algorithms.rewards import (
    clip_scores,
    end_rewards,
    normalize_scores,
    objective_terms,
    penalty_terms,
    score_moments,
    token_rewards,
)

NAN = float("nan")


def test_score_lands_on_the_last_response_token_and_kl_on_all() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    kl = torch.where(mask, torch.tensor([1.0, 2.0, 3.0, 4.0]), NAN)
    rewards = token_rewards(torch.tensor([10.0, 20.0, 30.0, NAN]), kl, mask, 0.5)
    expected = [[-0.5, -1.0, 8.5, 0.0], [0.0, -1.0, 0.0, 18.0], [29.5, 0.0, 0.0, 0.0], [0.0] * 4]
    assert rewards.tolist() == expected


def test_no_tokens_at_all() -> None:
    empty = torch.zeros(2, 0)
    assert token_rewards(torch.ones(2), empty, empty.bool(), 0.1).shape == (2, 0)


def test_clip_is_symmetric_and_keeps_nan_visible() -> None:
    clipped = clip_scores(torch.tensor([-9.0, 0.5, 9.0, NAN]), 2.0)
    assert clipped[:3].tolist() == [-2.0, 0.5, 2.0]
    assert clipped[3].isnan()
    with pytest.raises(ValueError, match="score_clip"):
        clip_scores(clipped, 0.0)


def test_running_normalisation_does_not_depend_on_batches_or_ranks() -> None:
    scores = 5 + 2 * torch.randn(24, generator=torch.Generator().manual_seed(3))
    state: dict[str, float] = {}
    for iteration in scores.split(8):
        merged = Moments()
        for rank in iteration.split([1, 5, 2]):
            merged = merged.merge(score_moments(rank))
        normal, state = normalize_scores(iteration, merged, json.loads(json.dumps(state)))
    assert state["count"] == 24
    everything = (scores - scores.mean()) / scores.std()
    torch.testing.assert_close(normal, everything[-8:], rtol=1e-5, atol=1e-5)


def test_a_first_single_score_normalises_to_zero() -> None:
    score = torch.tensor([7.0])
    normal, state = normalize_scores(score, score_moments(score), {})
    assert normal.tolist() == [0.0]
    assert state == {"count": 1.0, "mean": 7.0, "squares": 0.0}


def test_terminal_keeps_scores_and_bootstrap_replaces_those_of_cut_responses() -> None:
    scores, ended = torch.tensor([1.0, 2.0]), torch.tensor([True, False])
    after = torch.tensor([NAN, 4.0])
    assert end_rewards(scores, ended).tolist() == [1.0, 2.0]
    assert end_rewards(scores, ended, missing_eos_penalty=3.0).tolist() == [1.0, -1.0]
    assert end_rewards(scores, ended, bootstrap_values=after, gamma=0.5).tolist() == [1.0, 2.0]
    both = end_rewards(scores, ended, missing_eos_penalty=3.0, bootstrap_values=after)
    assert both.tolist() == [1.0, 1.0]


def test_objective_terms_by_hand() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    logprobs, reference = torch.tensor([[-1.0, -2.0], [-3.0, NAN]]), torch.tensor([[-2.0, -2.5], [-1.0, NAN]])
    scores = torch.tensor([5.0, 6.0])
    terms = objective_terms(scores, logprobs, reference, mask)
    assert objective_terms(scores, logprobs, None, mask).keys() == terms.keys() - {"objective/kl"}
    terms |= penalty_terms(scores, mask, -0.1 * (logprobs - reference))
    assert {name: [round(v, 5) for v in value.tolist()] for name, value in terms.items()} == {
        "objective/kl": [1.5, -2.0],
        "objective/entropy": [3.0, 3.0],
        "objective/non_score_reward": [-0.15, 0.2],
        "objective/scores": [5.0, 6.0],
        "objective/rlhf_reward": [4.85, 6.2],
    }
