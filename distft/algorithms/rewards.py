"""From a score per response to a reward per token. Padded tensors: ``B`` responses, ``T`` tokens.

The order, and each step's function:

1. `clip_scores` and `normalize_scores`, before anything else;
2. `end_rewards`: missing EOS, and what a response cut at the limit is worth;
3. `token_rewards`: the KL penalty at every token, the end reward at the last.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distft.algorithms.kl import sequence_kl
from distft.algorithms.masking import Moments, at_least_float32, keep, moments


def clip_scores(scores: Tensor, limit: float) -> Tensor:
    """``scores`` clipped to ``[-limit, limit]``; ``limit`` above 0, else ValueError. A NaN stays one."""
    if not limit > 0:
        raise ValueError(f"score_clip must be above 0, not {limit}")
    return scores.clamp(-limit, limit)


def score_moments(scores: Tensor) -> Moments:
    """Moments of one rank's scores; those of all ranks are merged before `normalize_scores`."""
    return moments(scores, torch.ones_like(scores, dtype=torch.bool))


def normalize_scores(scores: Tensor, seen: Moments, state: Mapping[str, float]) -> tuple[Tensor, dict[str, float]]:
    """Standardise scores by the running mean and deviation of all scores so far, these included.

    ``(scores - mean) / (std + 1e-8)``. The update is the parallel one of Chan, Golub and
    LeVeque (1983): the same whatever the batches or ranks the scores came in.

    Args:
        scores: ``[B]`` of this rank.
        seen: moments of this iteration's scores over all ranks.
        state: what the last call returned, or ``{}`` at the start. Checkpointed.

    Returns:
        Normalised scores and the new state (``count, mean, squares``: plain floats). With a single
        score ever seen there is no deviation: the result is 0.
    """
    running = Moments(**state).merge(seen)
    normal = (scores - running.mean) / (running.variance**0.5 + 1e-8)
    return normal, {"count": running.count, "mean": running.mean, "squares": running.squares}


def end_rewards(
    scores: Tensor,
    ended: Tensor,
    *,
    missing_eos_penalty: float | None = None,
    bootstrap_values: Tensor | None = None,
    gamma: float = 1.0,
) -> Tensor:
    """What the last token of each response earns besides its KL penalty.

    *terminal* (no ``bootstrap_values``): the score, cut or not: the limit counts as the end.
    *bootstrap*: a cut response has not ended, so nothing has scored its end yet; it earns
    ``gamma V`` **in place of** the score, the value standing for the score (and KL penalties)
    still to come. Adding both would pay the end twice and reward running into the limit.

    ``V`` is the value *after* the last token. The value column holds values *before* each token,
    so it is one reading more: the value head at the last token's own position. It is the model's
    prediction at experience time, a constant for all losses. With GAE, ``delta`` at the last token
    becomes ``-kl_coef kl + gamma V_after - V_before``: exactly the bootstrapped delta.

    Args:
        scores: ``[B]``, clipped and normalised already.
        ended: bool ``[B]``: False = cut at the limit.
        missing_eos_penalty: subtracted from cut responses, in either mode.
        bootstrap_values: ``[B]``, read for cut responses only (others may hold NaN).
        gamma: discount.

    Returns:
        ``[B]``.
    """
    worth = scores if bootstrap_values is None else torch.where(ended, scores, gamma * bootstrap_values)
    return worth if missing_eos_penalty is None else torch.where(ended, worth, worth - missing_eos_penalty)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """``-kl_coef kl_t`` at every response token, and the score added at the last one.

    Ziegler et al. 2019, eq. 2; Ouyang et al. 2022, eq. 2.

    Args:
        scores: ``[B]``, or `end_rewards`.
        kl: ``[B, T]``.
        mask: bool ``[B, T]``: response tokens. The last True of a row earns the score, wherever
            padding or observations lie; a row without any earns nothing.
        kl_coef: weight of the penalty.

    Returns:
        ``[B, T]``, 0 outside the mask.
    """
    rewards = keep(-kl_coef * at_least_float32(kl), mask)
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, positions, -1).amax(1, keepdim=True) if mask.shape[1] else mask.new_zeros((len(mask), 1))
    return rewards + keep(scores[:, None].to(rewards.dtype), mask & (positions == last))


def objective_terms(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor | None, mask: Tensor) -> dict[str, Tensor]:
    """What the ``objective/*`` metrics of sampled responses are the means of, per sequence (over all ranks).

    Args:
        scores: ``[B]`` of the reward model or functions, before clipping and normalisation.
        logprobs: ``[B, T]`` of the policy that generated.
        ref_logprobs: ``[B, T]``; None without a reference, and then there is no KL.
        mask: bool ``[B, T]``.

    Returns:
        ``objective/kl`` sum over tokens of log pi - log pi_ref; ``objective/entropy`` sum of -log pi;
        ``objective/scores``. All ``[B]``.
    """
    kl = {} if ref_logprobs is None else {"objective/kl": sequence_kl(logprobs, ref_logprobs, mask)}
    return {**kl, "objective/entropy": keep(-logprobs, mask).sum(1), "objective/scores": scores}


def penalty_terms(scores: Tensor, mask: Tensor, token_penalty: Tensor) -> dict[str, Tensor]:
    """The same of a KL penalty in the reward: ``objective/non_score_reward``, the sum of the penalty ``[B, T]``
    (``-kl_coef kl_t``), and ``objective/rlhf_reward``, score plus penalty. Both ``[B]``.
    """
    penalty = keep(token_penalty, mask).sum(1)
    return {"objective/non_score_reward": penalty, "objective/rlhf_reward": scores + penalty}
