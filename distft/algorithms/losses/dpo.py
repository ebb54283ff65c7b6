"""Direct preference optimisation and its kin: one loss per name over the same log-ratios.

With d_w, d_l = log pi - log pi_ref summed over the response tokens of chosen and rejected,
D = d_w - d_l, b = beta, e = label smoothing, s = sigmoid. Checked against TRL 1.16's DPOTrainer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from distft.algorithms.losses.base import LossBatch, LossResult, total
from distft.algorithms.losses.mean_logits import divided, mean_logits
from distft.algorithms.losses.pairwise import pair_metrics, pairs
from distft.algorithms.masking import at_least_float32, masked_sum, segment_sum


@dataclass(frozen=True)
class Pairs:
    """Pairs of a micro-batch, every tensor ``[num_pairs]``: log-ratios and response tokens (at least 1)."""

    chosen: Tensor
    rejected: Tensor
    chosen_length: Tensor
    rejected_length: Tensor

    @property
    def difference(self) -> Tensor:
        return self.chosen - self.rejected

    @property
    def mean_difference(self) -> Tensor:
        return self.chosen / self.chosen_length - self.rejected / self.rejected_length


PairLoss: TypeAlias = Callable[[Pairs, "Dpo"], Tensor]


def _sigmoid(p: Pairs, c: Dpo) -> Tensor:
    """-(1-e) logsig(bD) - e logsig(-bD). Rafailov et al. 2023, eq. 7; e > 0 is cDPO (Mitchell 2023)."""
    x = c.beta * p.difference
    return -(1 - c.label_smoothing) * F.logsigmoid(x) - c.label_smoothing * F.logsigmoid(-x)


def _hinge(p: Pairs, c: Dpo) -> Tensor:
    """relu(1 - bD). Zhao et al. 2023 (SLiC), Liu et al. 2024 (RSO)."""
    return F.relu(1 - c.beta * p.difference)


def _ipo(p: Pairs, c: Dpo) -> Tensor:
    """(d_w/len_w - d_l/len_l - 1/(2b))^2. Azar et al. 2023, eq. 17, per token."""
    return (p.mean_difference - 1 / (2 * c.beta)).square()


def _robust(p: Pairs, c: Dpo) -> Tensor:
    """[-(1-e) logsig(bD) + e logsig(-bD)] / (1 - 2e). Chowdhury et al. 2024, unbiased under label noise e."""
    x, e = c.beta * p.difference, c.label_smoothing
    return (-(1 - e) * F.logsigmoid(x) + e * F.logsigmoid(-x)) / (1 - 2 * e)


def _exo_pair(p: Pairs, c: Dpo) -> Tensor:
    """KL(s(bD), 1 - s(bD) || 1-e, e). Ji et al. 2024 (EXO), eq. 16 with two answers; e > 0."""
    x, e = c.beta * p.difference, c.label_smoothing
    won = torch.sigmoid(x) * (F.logsigmoid(x) - math.log1p(-e))
    return won + torch.sigmoid(-x) * (F.logsigmoid(-x) - math.log(e))


def _nca_pair(p: Pairs, c: Dpo) -> Tensor:
    """-logsig(b d_w) - 1/2 logsig(-b d_w) - 1/2 logsig(-b d_l). Chen et al. 2024 (NCA), two answers."""
    won, lost = c.beta * p.chosen, c.beta * p.rejected
    return -F.logsigmoid(won) - 0.5 * F.logsigmoid(-won) - 0.5 * F.logsigmoid(-lost)


def _bco_pair(p: Pairs, c: Dpo) -> Tensor:
    """-logsig(b d_w) - logsig(-b d_l). Jung et al. 2024 (BCO), without the reward shift, as TRL 1.16."""
    return -F.logsigmoid(c.beta * p.chosen) - F.logsigmoid(-c.beta * p.rejected)


def _sppo_hard(p: Pairs, c: Dpo) -> Tensor:
    """(d_w - 1/(2b))^2 + (d_l + 1/(2b))^2. Wu et al. 2024 (SPPO), eq. 4.7 with probabilities 1 and 0."""
    return (p.chosen - 0.5 / c.beta).square() + (p.rejected + 0.5 / c.beta).square()


def _apo_zero(p: Pairs, c: Dpo) -> Tensor:
    """1 - s(b d_w) + s(b d_l). D'Oosterlinck et al. 2024 (APO), eq. 7: chosen better than the model."""
    return 1 - torch.sigmoid(c.beta * p.chosen) + torch.sigmoid(c.beta * p.rejected)


def _apo_down(p: Pairs, c: Dpo) -> Tensor:
    """s(b d_w) + 1 - s(bD). D'Oosterlinck et al. 2024 (APO), eq. 8: chosen worse than the model."""
    return torch.sigmoid(c.beta * p.chosen) + 1 - torch.sigmoid(c.beta * p.difference)


def _discopop(p: Pairs, c: Dpo) -> Tensor:
    """(1 - m)(-logsig(x)) + m exp(-x), x = bD, m = s(x / tau). Lu et al. 2024 (DiscoPOP), eq. 5.

    m exp(-x) is taken as one exponential: apart, they overflow to inf * 0 for very negative x.
    """
    x = c.beta * p.difference
    modulation = x / c.discopop_tau
    return -torch.sigmoid(-modulation) * F.logsigmoid(x) + torch.exp(F.logsigmoid(modulation) - x)


def _sigmoid_norm(p: Pairs, c: Dpo) -> Tensor:
    """-logsig(b (d_w/len_w - d_l/len_l)). The length-normalised DPO of Tulu 3 (Lambert et al. 2024)."""
    return -F.logsigmoid(c.beta * p.mean_difference)


PAIR_LOSSES: dict[str, PairLoss] = {
    "sigmoid": _sigmoid,
    "hinge": _hinge,
    "ipo": _ipo,
    "robust": _robust,
    "exo_pair": _exo_pair,
    "nca_pair": _nca_pair,
    "bco_pair": _bco_pair,
    "sppo_hard": _sppo_hard,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
    "sigmoid_norm": _sigmoid_norm,
}
_SMOOTHED = ("sigmoid", "robust", "exo_pair")


@dataclass(frozen=True)
class Dpo:
    """The mean over pairs of the loss named ``loss``, plus ``rpo_alpha`` x NLL(chosen)/len.

    RPO's second term: Liu et al. 2024, Pang et al. 2024. ``label_smoothing`` in [0, 0.5) is for sigmoid,
    robust and exo_pair (which needs it above 0). ``discopop_tau`` is the temperature of DiscoPOP's blend.

    Metrics (TRL's definitions): ``rewards/{chosen,rejected}`` pair means of b d; ``rewards/accuracies``
    share of pairs with b d_w > b d_l; ``rewards/margins``; ``logps/{chosen,rejected}`` pair means of
    log pi summed over the response, for every loss; ``logits/{chosen,rejected}`` token means of
    the mean logit over the vocabulary; ``nll_loss`` with rpo_alpha.
    """

    beta: float = 0.1
    loss: str = "sigmoid"
    label_smoothing: float = 0.0
    rpo_alpha: float = 0.0
    discopop_tau: float = 0.05

    outputs: ClassVar[tuple[str, ...]] = ("logprobs", "logits_mean")
    reads: ClassVar[Literal["tokens", "last"]] = "tokens"
    columns: ClassVar[tuple[str, ...]] = ("ref_logprobs",)
    optional_columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.loss not in PAIR_LOSSES:
            raise ValueError(f"unknown dpo loss {self.loss!r}; there are {', '.join(PAIR_LOSSES)}")
        if not self.beta > 0 or not self.discopop_tau > 0:
            raise ValueError(f"beta and discopop_tau must be above 0, not {self.beta} and {self.discopop_tau}")
        if self.rpo_alpha < 0:
            raise ValueError(f"rpo_alpha must not be below 0, not {self.rpo_alpha}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), not {self.label_smoothing}")
        if self.label_smoothing and self.loss not in _SMOOTHED:
            raise ValueError(f"label_smoothing has no meaning for {self.loss}; it has for {', '.join(_SMOOTHED)}")
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ValueError("exo_pair needs label_smoothing above 0 (such as 1e-3): its target is (1-e, e)")

    def __call__(
        self, outputs: Mapping[str, Tensor], batch: LossBatch, denominators: Mapping[str, float]
    ) -> LossResult:
        """See `Loss`. Sequences come as chosen, rejected, chosen, ..."""
        logprobs, mask = at_least_float32(outputs["logprobs"]), batch.token_mask
        if dummy := pairs(batch, logprobs):
            return dummy
        # Token by token first: the difference of two long sums would lose digits.
        ratios = segment_sum(logprobs - batch.column("ref_logprobs"), batch.segments, batch.num_sequences, mask)
        logps = segment_sum(logprobs, batch.segments, batch.num_sequences, mask)
        lengths = segment_sum(torch.ones_like(logprobs), batch.segments, batch.num_sequences, mask).clamp(min=1)
        real = batch.sequence_mask[0::2] & batch.sequence_mask[1::2]
        both = Pairs(ratios[0::2], ratios[1::2], lengths[0::2], lengths[1::2])

        per_pair = PAIR_LOSSES[self.loss](both, self)
        rewards = (self.beta * both.chosen, self.beta * both.rejected)
        metrics = pair_metrics(rewards, (logps[0::2], logps[1::2]), real)
        if self.rpo_alpha:
            nll = -logps[0::2] / lengths[0::2]
            per_pair = per_pair + self.rpo_alpha * nll
            metrics["nll_loss"] = total(nll, real, "units")
        metrics |= mean_logits(outputs, mask, batch.segments % 2 == 0)
        return LossResult(masked_sum(per_pair, real) / denominators["units"], metrics)

    def finalize(self, metrics: dict[str, float]) -> dict[str, float]:
        """Divides ``logits/*`` by their own token counts."""
        return divided(metrics)
