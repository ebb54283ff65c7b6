"""One optimizer step of SFT, reward modelling and DPO as NUMERICS says it, in plain torch, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference.ppo_reference import optimizer_step, scalars


@dataclass(frozen=True)
class Row:
    """A sequence: its tokens, and for each whether it is learned (1) or only read (0)."""

    tokens: Sequence[int]
    learned: Sequence[int]

    @classmethod
    def of(cls, prompt: Sequence[int], response: Sequence[int]) -> Row:
        """All of the response is learned, nothing of the prompt."""
        return cls([*prompt, *response], [0] * len(prompt) + [1] * len(response))


@dataclass(frozen=True)
class Step:
    """The loss, the metrics by NUMERICS' names, and the gradient norm before clipping (in ``metrics`` too)."""

    loss: float
    metrics: dict[str, float]


def learned_logits(model: nn.Module, row: Row) -> tuple[Tensor, Tensor]:
    """Logits float32 ``[t, vocab]`` and targets ``[t]`` of the learned tokens; nothing predicts the first token."""
    tokens = torch.tensor(list(row.tokens))
    logits = model(input_ids=tokens[None], use_cache=False).logits[0].float()
    learned = torch.tensor(list(row.learned), dtype=torch.bool)[1:]
    return logits[:-1][learned], tokens[1:][learned]


def token_logprobs(model: nn.Module, row: Row) -> tuple[Tensor, Tensor, Tensor]:
    """Per learned token ``[t]``: (log-prob, mean of the logits over the vocabulary, whether it was the likeliest)."""
    logits, targets = learned_logits(model, row)
    logprobs = F.log_softmax(logits, dim=-1)[torch.arange(len(targets)), targets]
    return logprobs, logits.detach().mean(dim=-1), logits.detach().argmax(dim=-1) == targets


def sft_step(model: nn.Module, optimizer: torch.optim.Optimizer, rows: Sequence[Row], max_grad_norm: float) -> Step:
    """Token NLL: sum over all learned tokens of all rows / their number."""
    model.train()
    read = [token_logprobs(model, row) for row in rows]
    loss = -torch.cat([logprobs for logprobs, _, _ in read]).mean()
    right = torch.cat([is_top for _, _, is_top in read]).float().mean()
    norm = optimizer_step(model, optimizer, loss, max_grad_norm)
    return Step(loss.item(), {"loss": loss.item(), "mean_token_accuracy": float(right), "grad_norm": norm})


def reward_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    max_grad_norm: float, *, margin: float = 0.0, center_coef: float = 0.0,
) -> Step:  # fmt: skip
    """``-logsig(r_w - r_l - margin) + center_coef (r_w + r_l)^2``, mean over pairs of whole token sequences.

    A sequence's reward is the scalar head at its last token.
    """
    model.train()
    chosen = torch.stack([scalars(model, better)[-1] for better, _ in pairs])
    rejected = torch.stack([scalars(model, worse)[-1] for _, worse in pairs])
    loss = (-F.logsigmoid(chosen - rejected - margin) + center_coef * (chosen + rejected) ** 2).mean()
    norm = optimizer_step(model, optimizer, loss, max_grad_norm)
    every = torch.cat([chosen, rejected]).detach()
    metrics = {
        "loss": loss.item(),
        "accuracy": float((chosen > rejected).float().mean()),
        "margin": (chosen - rejected).mean().item(),
        "min_reward": float(every.min()),
        "mean_reward": float(every.mean()),
        "max_reward": float(every.max()),
        "grad_norm": norm,
    }
    return Step(loss.item(), metrics)


def dpo_step(
    policy: nn.Module, reference: nn.Module, optimizer: torch.optim.Optimizer, pairs: Sequence[tuple[Row, Row]],
    max_grad_norm: float, *, beta: float = 0.1, label_smoothing: float = 0.0,
) -> Step:  # fmt: skip
    """Sigmoid DPO with conservative label smoothing, mean over (chosen, rejected) pairs.

    ``logits/*`` is the mean over learned tokens of the mean logit over the vocabulary.
    """
    policy.train()
    reference.eval()
    columns: dict[str, list[Tensor]] = {"chosen": [], "rejected": [], "ref_chosen": [], "ref_rejected": []}
    logit_means: dict[str, list[Tensor]] = {"chosen": [], "rejected": []}
    for pair in pairs:
        for side, row in zip(("chosen", "rejected"), pair, strict=True):
            logprobs, means, _ = token_logprobs(policy, row)
            columns[side].append(logprobs.sum())
            logit_means[side].append(means)
            with torch.no_grad():
                columns[f"ref_{side}"].append(token_logprobs(reference, row)[0].sum())
    chosen, rejected, ref_chosen, ref_rejected = (torch.stack(column) for column in columns.values())
    better, worse = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    loss = -(1 - label_smoothing) * F.logsigmoid(better - worse) - label_smoothing * F.logsigmoid(worse - better)
    norm = optimizer_step(policy, optimizer, loss.mean(), max_grad_norm)
    metrics = {
        "loss": loss.mean().item(),
        "rewards/chosen": better.mean().item(),
        "rewards/rejected": worse.mean().item(),
        "rewards/accuracies": float((better > worse).float().mean()),
        "rewards/margins": (better - worse).mean().item(),
        "logps/chosen": chosen.mean().item(),
        "logps/rejected": rejected.mean().item(),
        "logits/chosen": float(torch.cat(logit_means["chosen"]).mean()),
        "logits/rejected": float(torch.cat(logit_means["rejected"]).mean()),
        "grad_norm": norm,
    }
    return Step(loss.mean().item(), metrics)
