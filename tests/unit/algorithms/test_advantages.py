from __future__ import annotations

import pytest
import torch

from distft.algorithms.advantages import gae
from distft.algorithms.masking import moments, whiten
from distft.algorithms.rewards import end_rewards, token_rewards

NAN = float("nan")


def test_hand_worked_example() -> None:
    # gamma 0.9, lam 0.5; from the back: delta_2 = 1 - 0.5 = 0.5, delta_1 = 0 + 0.9 * 0.5 - 0.4 = 0.05,
    # delta_0 = 0.2 + 0.9 * 0.4 - 0.3 = 0.26; A_1 = 0.05 + 0.45 * 0.5, A_0 = 0.26 + 0.45 * A_1.
    rewards, values = torch.tensor([[0.2, 0.0, 1.0]]), torch.tensor([[0.3, 0.4, 0.5]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=0.9, lam=0.5)
    torch.testing.assert_close(advantages, torch.tensor([[0.38375, 0.275, 0.5]]))
    torch.testing.assert_close(returns, torch.tensor([[0.68375, 0.675, 1.0]]))


def test_lam_one_gives_monte_carlo_returns_and_lam_zero_temporal_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 3, 5, generator=generator)
    mask = torch.ones(3, 5, dtype=torch.bool)
    _, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    torch.testing.assert_close(returns, rewards.flip(1).cumsum(1).flip(1))
    advantages, _ = gae(rewards, values, mask, gamma=0.9, lam=0.0)
    after = torch.cat([values[:, 1:], torch.zeros(3, 1)], 1)
    torch.testing.assert_close(advantages, rewards + 0.9 * after - values)


@pytest.mark.parametrize("gap", [1, 4])
def test_observation_tokens_are_skipped_and_not_decayed_through(gap: int) -> None:
    """However long a tool's answer, the tokens around it have the advantages they have without it."""
    rewards, values = torch.tensor([[0.1, 0.0, 2.0]]), torch.tensor([[0.5, 0.2, 0.4]])
    plain, plain_returns = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=0.9, lam=0.8)

    def with_gap(x: torch.Tensor, filler: float) -> torch.Tensor:
        return torch.cat([x[:, :2], torch.full((1, gap), filler, dtype=x.dtype), x[:, 2:]], 1)

    mask = with_gap(torch.ones(1, 3), 0.0).bool()
    advantages, returns = gae(with_gap(rewards, NAN), with_gap(values, NAN), mask, gamma=0.9, lam=0.8)
    torch.testing.assert_close(advantages[mask], plain[0])
    torch.testing.assert_close(returns[mask], plain_returns[0])
    assert (advantages[~mask] == 0).all()
    assert (returns[~mask] == 0).all()


def test_padding_left_or_right_and_empty_rows() -> None:
    row, mask = torch.tensor([1.0, 2.0]), torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
    values = torch.full((3, 4), NAN).masked_scatter(mask, row.repeat(2))
    advantages, returns = gae(values, values / 2, mask)
    torch.testing.assert_close(advantages[0, :2], advantages[1, 2:])
    assert advantages[0, :2].abs().sum() > 0
    assert not advantages.isnan().any()
    assert (advantages[2] == 0).all()
    assert (returns[2] == 0).all()


def test_returns_come_from_advantages_before_whitening() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 4, 6, generator=generator)
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 5])[:, None]
    advantages, returns = gae(rewards, values, mask)
    white = whiten(advantages, mask, moments(advantages, mask))
    torch.testing.assert_close((returns - values)[mask], advantages[mask])
    assert abs(white[mask].mean().item()) < 1e-6
    assert white[mask].std().item() == pytest.approx(1.0, abs=1e-6)


def test_no_gradient_flows() -> None:
    values = torch.randn(1, 3, requires_grad=True)
    advantages, returns = gae(torch.randn(1, 3), values, torch.ones(1, 3, dtype=torch.bool))
    assert not advantages.requires_grad
    assert not returns.requires_grad


def test_bootstrap_is_a_longer_response_seen_only_to_its_cut() -> None:
    """With lam 0 a cut response's last delta is -kl_coef kl + gamma V_after - V_before."""
    scores, ended = torch.tensor([5.0]), torch.tensor([False])
    mask, kl = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[0.0, 1.0]])
    end = end_rewards(scores, ended, bootstrap_values=torch.tensor([3.0]), gamma=0.9)
    advantages, _ = gae(token_rewards(end, kl, mask, 0.1), torch.tensor([[1.0, 2.0]]), mask, gamma=0.9, lam=0.0)
    torch.testing.assert_close(advantages, torch.tensor([[0.9 * 2 - 1, -0.1 + 0.9 * 3 - 2]]))
