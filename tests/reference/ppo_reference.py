"""PPO as NUMERICS says it, in one process, one sample at a time: slow, plain, and independent of distft.

Written from the specification alone so that the distributed implementation has something to be
compared with. No batching, no padding, no cache, no sharding: every model reads one unpadded
sequence. An iteration is

    prompts -> responses -> scores, log-probs, values -> rewards -> advantages -> epochs x minibatches

Shapes: ``n`` samples of an iteration, ``t`` response tokens of one sample, ``p`` tokens of its prompt.
Where the specification is silent, this file says what it does and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Reward: TypeAlias = nn.Module | Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class Settings:
    """The keys of a PPO recipe, with its defaults; learning rates are constant."""

    eos_id: int
    max_new_tokens: int
    temperature: float = 1.0
    kl_coef: float = 0.05
    kl_target: float | None = None
    kl_horizon: float = 10_000
    kl_estimator: str = "k1"
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    clip_high: float | None = None
    dual_clip: float | None = None
    value_clip: float = 0.2
    entropy_coef: float = 0.0
    whiten: bool = True
    whiten_rewards: bool = False
    score_clip: float | None = None
    missing_eos_penalty: float | None = None
    truncated: str = "terminal"
    learning_rate: float = 1e-6
    value_learning_rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float = 1.0


@dataclass
class Sample:
    """One prompt and what became of it. All tensors are ``[t]`` unless said otherwise."""

    prompt: list[int]
    response: list[int]
    ended: bool
    old_logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    value_after: float  # V of the state behind the last response token
    raw_score: float  # what the reward model said
    score: float = 0.0  # what the last token earns: clipped, or bootstrapped, with the penalty for a missing EOS
    kl: Tensor = field(default_factory=lambda: torch.zeros(0))
    rewards: Tensor = field(default_factory=lambda: torch.zeros(0))
    advantages: Tensor = field(default_factory=lambda: torch.zeros(0))
    returns: Tensor = field(default_factory=lambda: torch.zeros(0))


@dataclass
class Iteration:
    """What an iteration produced: its samples, the metrics of every optimizer step, and of the whole."""

    samples: list[Sample]
    steps: list[dict[str, float]]
    metrics: dict[str, float]
    kl_coef_after: float


# --- reading the models -------------------------------------------------------------------------


def next_token_logits(policy: nn.Module, prompt: Sequence[int], response: Sequence[int], temperature: float) -> Tensor:
    """``[t + 1, vocab]`` float32: row i, divided by the temperature, says what follows i tokens of the response.

    An encoder reads the prompt, and its decoder the response behind a token that starts it; a decoder reads the one
    behind the other.
    """
    apart = policy.config.is_encoder_decoder  # type: ignore[union-attr]
    logits: Tensor = policy(**inputs(policy, prompt, response), use_cache=False).logits[0]
    return (logits if apart else logits[len(prompt) - 1 :]).float() / temperature


def inputs(model: nn.Module, prompt: Sequence[int], response: Sequence[int]) -> dict[str, Tensor]:
    """What the model is called with, for one row."""
    config: Any = model.config
    if not config.is_encoder_decoder:
        return {"input_ids": torch.tensor([[*prompt, *response]])}
    told = torch.tensor([[config.decoder_start_token_id, *response]])
    return {"input_ids": torch.tensor([list(prompt)]), "decoder_input_ids": told}


def response_logits(policy: nn.Module, prompt: Sequence[int], response: Sequence[int], temperature: float) -> Tensor:
    """``[t, vocab]``: row i is the distribution that response token i was drawn from."""
    return next_token_logits(policy, prompt, response, temperature)[:-1]


def chosen_logprobs(logits: Tensor, response: Sequence[int]) -> Tensor:
    """``[t]`` log-probs of the response tokens from logits ``[t, vocab]``."""
    return F.log_softmax(logits, dim=-1)[torch.arange(len(response)), torch.tensor(list(response))]


def scalars(model: nn.Module, tokens: Sequence[int]) -> Tensor:
    """``[len(tokens)]``: the scalar head at every position of a ``*ForSequenceClassification`` with one label."""
    hidden = model.model(input_ids=torch.tensor([list(tokens)]), use_cache=False).last_hidden_state  # type: ignore[operator]
    out: Tensor = model.score(hidden)[0, :, 0]  # type: ignore[operator]
    return out.float()


def values_around(model: nn.Module, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """``[t + 1]``: the value before each response token, and behind the last."""
    if not model.config.is_encoder_decoder:  # type: ignore[union-attr]
        return scalars(model, [*prompt, *response])[len(prompt) - 1 :]
    states = model.base_model(**inputs(model, prompt, response), use_cache=False).last_hidden_state  # type: ignore[operator]
    out: Tensor = model.classification_head(states)[0, :, 0]  # type: ignore[operator]
    return out.float()


# --- rollout ------------------------------------------------------------------------------------


def draw(logits: Tensor, uniform: float) -> int:
    """Inverse CDF: the first token whose cumulated probability exceeds ``uniform``. logits ``[vocab]``."""
    cumulated = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)
    above = (cumulated > uniform * cumulated[-1]).nonzero()
    return int(above[0]) if len(above) else len(logits) - 1


@torch.no_grad()
def respond(policy: nn.Module, prompt: Sequence[int], uniforms: Tensor, settings: Settings) -> tuple[list[int], bool]:
    """Samples left to right until EOS (kept, as part of the response) or the limit: (response, ended).

    uniforms ``[max_new_tokens]``: the number at a position decides the token there.
    """
    response: list[int] = []
    for position in range(settings.max_new_tokens):
        logits = next_token_logits(policy, prompt, response, settings.temperature)[-1]
        response.append(draw(logits, float(uniforms[position])))
        if response[-1] == settings.eos_id:
            return response, True
    return response, False


@torch.no_grad()
def roll_out(
    policy: nn.Module, reference: nn.Module, reward: Reward, value: nn.Module,
    prompt: Sequence[int], uniforms: Tensor, settings: Settings,
) -> Sample:  # fmt: skip
    """A response and all that the four models say of it.

    values[i] is the value *before* response token i is emitted: the head read at the token in front of it.
    """
    response, ended = respond(policy, prompt, uniforms, settings)
    value_at = values_around(value, prompt, response)
    scored = float(scalars(reward, [*prompt, *response])[-1]) if isinstance(reward, nn.Module) else reward(response)
    return Sample(
        prompt=list(prompt),
        response=response,
        ended=ended,
        old_logprobs=chosen_logprobs(response_logits(policy, prompt, response, settings.temperature), response),
        ref_logprobs=chosen_logprobs(response_logits(reference, prompt, response, settings.temperature), response),
        values=value_at[:-1],
        value_after=float(value_at[-1]),
        raw_score=scored,
    )


# --- rewards and advantages ---------------------------------------------------------------------


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: str) -> Tensor:
    """Per token ``[t]``: k1 = log pi - log pi_ref; k2 = k1^2 / 2; k3 = exp(-k1) - 1 + k1."""
    k1 = logprobs - ref_logprobs
    return {"k1": k1, "k2": k1**2 / 2, "k3": torch.exp(-k1) - 1 + k1}[estimator]


def shape_score(raw: float, ended: bool, settings: Settings) -> float:
    """Clip first; then a response cut at the limit pays for its missing EOS."""
    score = raw if settings.score_clip is None else max(-settings.score_clip, min(settings.score_clip, raw))
    if not ended and settings.missing_eos_penalty is not None:
        score -= settings.missing_eos_penalty
    return score


def end_reward(sample: Sample, settings: Settings) -> float:
    """What the last token earns: the score, or for a cut response under ``truncated: bootstrap`` gamma V.

    V is *in place of* the score: it stands for the score still to come, and both would pay the end twice.
    """
    if settings.truncated == "bootstrap" and not sample.ended:
        return shape_score(0.0, sample.ended, settings) + settings.gamma * sample.value_after
    return shape_score(sample.raw_score, sample.ended, settings)


def token_rewards(kl: Tensor, score: float, kl_coef: float) -> Tensor:
    """``-kl_coef * kl`` at every token, the score on top at the last. ``[t] -> [t]``."""
    rewards = -kl_coef * kl
    rewards[-1] += score
    return rewards


def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """A_t = delta_t + gamma lam A_{t+1} with delta_t = r_t + gamma V_{t+1} - V_t (Schulman et al. 2016).

    rewards, values ``[t]``; V behind the last token is 0: a bootstrap is part of the last reward.
    """
    advantages = torch.zeros_like(rewards)
    next_value, next_advantage = 0.0, 0.0
    for t in reversed(range(len(rewards))):
        delta = float(rewards[t]) + gamma * next_value - float(values[t])
        next_advantage = delta + gamma * lam * next_advantage
        advantages[t] = next_advantage
        next_value = float(values[t])
    return advantages


def whiten(rows: list[Tensor], *, shift_mean: bool = True) -> list[Tensor]:
    """(x - mean) / sqrt(unbiased variance + 1e-8) over all tokens of all rows; the mean kept if not shifted."""
    everything = torch.cat(rows)
    mean, variance = everything.mean(), everything.var(unbiased=True) if len(everything) > 1 else torch.tensor(0.0)
    scaled = [(row - mean) / torch.sqrt(variance + 1e-8) for row in rows]
    return scaled if shift_mean else [row + mean for row in scaled]


def add_advantages(samples: list[Sample], kl_coef: float, settings: Settings) -> None:
    """Fills in score, kl, rewards, advantages and returns (returns from un-whitened advantages)."""
    for sample in samples:
        sample.score = end_reward(sample, settings)
        sample.kl = kl_estimate(sample.old_logprobs, sample.ref_logprobs, settings.kl_estimator)
        sample.rewards = token_rewards(sample.kl, sample.score, kl_coef)
    if settings.whiten_rewards:
        for sample, row in zip(samples, whiten([s.rewards for s in samples], shift_mean=False), strict=True):
            sample.rewards = row
    for sample in samples:
        sample.advantages = gae(sample.rewards, sample.values, settings.gamma, settings.lam)
        sample.returns = sample.advantages + sample.values
    if settings.whiten:
        for sample, row in zip(samples, whiten([s.advantages for s in samples]), strict=True):
            sample.advantages = row


def adapted_kl_coef(kl_coef: float, mean_kl: float, num_samples: int, settings: Settings) -> float:
    """The adaptive controller of Ziegler et al. 2019 on the mean KL per sequence; fixed without a target."""
    if settings.kl_target is None:
        return kl_coef
    error = max(-0.2, min(0.2, mean_kl / settings.kl_target - 1))
    return kl_coef * (1 + error * num_samples / settings.kl_horizon)


# --- update -------------------------------------------------------------------------------------


def policy_terms(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, settings: Settings) -> tuple[Tensor, ...]:
    """Per token ``[t]``: (loss, ratio, whether the clipped branch is the larger loss)."""
    high = settings.clip if settings.clip_high is None else settings.clip_high
    ratio = torch.exp(logprobs - old_logprobs)
    free, clipped = -ratio * advantages, -torch.clamp(ratio, 1 - settings.clip, 1 + high) * advantages
    loss = torch.maximum(free, clipped)
    if settings.dual_clip is not None:
        bounded = torch.minimum(loss, -settings.dual_clip * advantages)
        loss = torch.where(advantages < 0, bounded, loss)
    return loss, ratio.detach(), clipped > free


def value_terms(values: Tensor, old_values: Tensor, returns: Tensor, value_clip: float) -> tuple[Tensor, Tensor]:
    """Per token ``[t]``: (0.5 max of the free and the clipped squared error, whether the clipped is larger)."""
    near = torch.maximum(torch.minimum(values, old_values + value_clip), old_values - value_clip)
    free, clipped = (values - returns) ** 2, (near - returns) ** 2
    return 0.5 * torch.maximum(free, clipped), clipped > free


def mean_over_tokens(rows: list[Tensor]) -> Tensor:
    """Sum over all tokens of the minibatch / their number."""
    return torch.cat(rows).float().mean()


def optimizer_step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, max_grad_norm: float) -> float:
    """Backward, clipping, step; returns the norm before clipping."""
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    return float(norm)


def update_policy(
    policy: nn.Module, optimizer: torch.optim.Optimizer, minibatch: list[Sample], settings: Settings
) -> dict[str, float]:
    """One optimizer step of the policy over a minibatch; its metrics, each a mean over the minibatch's tokens."""
    losses, ratios, clipped, entropies, changes = [], [], [], [], []
    for sample in minibatch:
        logits = response_logits(policy, sample.prompt, sample.response, settings.temperature)
        logprobs = chosen_logprobs(logits, sample.response)
        loss, ratio, is_clipped = policy_terms(logprobs, sample.old_logprobs, sample.advantages, settings)
        full = F.log_softmax(logits, dim=-1)
        losses.append(loss)
        ratios.append(ratio)
        clipped.append(is_clipped)
        entropies.append(-(full.exp() * full).sum(dim=-1))
        changes.append((logprobs - sample.old_logprobs).detach())
    policy_loss, entropy = mean_over_tokens(losses), mean_over_tokens(entropies)
    total = policy_loss - settings.entropy_coef * entropy
    norm = optimizer_step(policy, optimizer, total, settings.max_grad_norm)
    every_ratio = torch.cat(ratios)
    return {
        "loss/policy_avg": policy_loss.item(),
        "policy/entropy_avg": entropy.item(),
        "policy/approxkl_avg": float(0.5 * (torch.cat(changes) ** 2).mean()),
        "policy/clipfrac_avg": float(mean_over_tokens(clipped)),
        "val/ratio": float(every_ratio.mean()),
        "val/ratio_var": float(every_ratio.var(unbiased=False)),
        "grad_norm": norm,
    }


def update_value(
    value: nn.Module, optimizer: torch.optim.Optimizer, minibatch: list[Sample], settings: Settings
) -> dict[str, float]:
    """One optimizer step of the value model over a minibatch; explained variance is that of the old values."""
    losses, clipped = [], []
    for sample in minibatch:
        values = values_around(value, sample.prompt, sample.response)[:-1]
        loss, is_clipped = value_terms(values, sample.values, sample.returns, settings.value_clip)
        losses.append(loss)
        clipped.append(is_clipped)
    total = mean_over_tokens(losses)
    norm = optimizer_step(value, optimizer, total, settings.max_grad_norm)
    returns = torch.cat([sample.returns for sample in minibatch])
    residual = returns - torch.cat([sample.values for sample in minibatch])
    spread = float(returns.var(unbiased=False))
    return {
        "loss/value_avg": total.item(),
        "val/clipfrac_avg": float(mean_over_tokens(clipped)),
        "val/explained_variance": 1 - float(residual.var(unbiased=False)) / spread if spread else 0.0,
        "value/grad_norm": norm,
    }


# --- the loop -----------------------------------------------------------------------------------


def rollout_metrics(samples: list[Sample], kl_coef: float) -> dict[str, float]:
    """Means over sequences of sums over tokens (the names of NUMERICS); scores as the reward model gave them."""
    n = len(samples)
    kl = math.fsum(float((s.old_logprobs - s.ref_logprobs).sum()) for s in samples) / n  # k1, whatever the penalty
    scores = math.fsum(s.raw_score for s in samples) / n
    penalty = -kl_coef * math.fsum(float(s.kl.sum()) for s in samples) / n
    return {
        "objective/kl": kl,
        "objective/entropy": math.fsum(float(-s.old_logprobs.sum()) for s in samples) / n,
        "objective/non_score_reward": penalty,
        "objective/scores": scores,
        "objective/rlhf_reward": scores + penalty,
        "val/num_eos_tokens": float(sum(s.ended for s in samples)),
        "kl_coef": kl_coef,
    }


def run_ppo(
    policy: nn.Module,
    reference: nn.Module,
    reward: Reward,
    value: nn.Module,
    prompts: Sequence[Sequence[Sequence[int]]],
    uniforms: Sequence[Tensor],
    minibatches: Sequence[Sequence[Sequence[Sequence[int]]]],
    settings: Settings,
) -> list[Iteration]:
    """Trains ``policy`` and ``value`` in place; returns what every iteration saw and did.

    Args:
        policy, reference: causal language models or encoder-decoders, float32, dropout off.
        reward, value: ``*ForSequenceClassification`` with one label; a reward may be a function of the response.
        prompts: ``[iteration][sample]`` token lists; a prompt sampled twice stands here twice.
        uniforms: ``[iteration]`` tensors ``[n, max_new_tokens]``.
        minibatches: ``[iteration][epoch][minibatch]`` lists of sample numbers; one optimizer step each.
    """
    for model in (policy, reference, reward, value):
        if isinstance(model, nn.Module):
            model.eval()
    kl_coef = settings.kl_coef
    policy_optimizer = adamw(policy, settings.learning_rate, settings)
    value_optimizer = adamw(value, settings.value_learning_rate or settings.learning_rate, settings)
    iterations = []
    for these_prompts, these_uniforms, epochs in zip(prompts, uniforms, minibatches, strict=True):
        samples = [
            roll_out(policy, reference, reward, value, prompt, row, settings)
            for prompt, row in zip(these_prompts, these_uniforms, strict=True)
        ]
        add_advantages(samples, kl_coef, settings)
        steps = []
        for numbers in (minibatch for epoch in epochs for minibatch in epoch):
            minibatch = [samples[number] for number in numbers]
            steps.append(
                update_value(value, value_optimizer, minibatch, settings)
                | update_policy(policy, policy_optimizer, minibatch, settings)
            )
        metrics = rollout_metrics(samples, kl_coef)
        metrics |= {name: math.fsum(step[name] for step in steps) / len(steps) for name in steps[0]}
        kl_coef = adapted_kl_coef(kl_coef, metrics["objective/kl"], len(samples), settings)
        iterations.append(Iteration(samples, steps, metrics, kl_coef))
    return iterations


def adamw(model: nn.Module, learning_rate: float, settings: Settings) -> torch.optim.AdamW:
    """Plain AdamW without weight decay."""
    return torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=settings.betas, eps=settings.eps, weight_decay=0.0
    )
