"""Generalised advantage estimation over response tokens. Padded tensors: ``B`` responses, ``T`` tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from distft.algorithms.masking import at_least_float32, keep


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Advantages and returns (Schulman et al. 2016, eq. 16).

    ``delta_t = r_t + gamma V_next - V_t`` and ``A_t = delta_t + gamma lam A_next``, where *next* is the
    next token **in the mask**: tokens of a tool, an environment or another speaker inside a
    response are no action of the policy, so nothing decays through them. After the last token V and
    A are 0. ``V_t`` is the value before token t is emitted.

    Args:
        rewards: ``[B, T]``.
        values: ``[B, T]``.
        mask: bool ``[B, T]``: response tokens; the rest may hold NaN.
        gamma: discount.
        lam: 1 = Monte Carlo returns, 0 = one-step temporal difference.

    Returns:
        Advantages (not whitened) and returns = advantages + values, ``[B, T]`` each, no gradient, 0
        outside the mask.
    """
    rewards, values = keep(at_least_float32(rewards.detach()), mask), keep(at_least_float32(values.detach()), mask)
    # Token by token over contiguous columns.
    reward_columns, value_columns, masks = rewards.T.contiguous(), values.T.contiguous(), mask.T.contiguous()
    advantages = torch.zeros_like(reward_columns)
    next_value, next_advantage = rewards.new_zeros(len(rewards)), rewards.new_zeros(len(rewards))
    for t in reversed(range(len(reward_columns))):
        delta = reward_columns[t] + gamma * next_value - value_columns[t]
        next_advantage = torch.where(masks[t], delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(masks[t], value_columns[t], next_value)
        advantages[t] = next_advantage
    result = keep(advantages.T.contiguous(), mask)
    return result, keep(result + values, mask)
