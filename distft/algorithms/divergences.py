"""How far a student's distribution over the next token is from its teacher's, and what of the teacher's is told.

A teacher tells the log-probabilities of all tokens, or of its ``top_k`` likeliest ones by their numbers and, last, of
all others *together*. Nothing of the teacher's mass is lost then, and nothing is scaled up: what is dropped is only how
the rest is divided among the tokens that are not named. The student is read the same way, so both are distributions
over ``top_k + 1`` outcomes, and each divergence here is at most the one over the whole vocabulary (merging outcomes
never raises an f-divergence: Csiszar 1967), equal to it where nothing is left over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

Divergence: TypeAlias = Literal["forward", "reverse", "js"]
# Stands for log 0: finite, so that p log p is 0 where p is 0, and with room for what is added to it.
_LOG_ZERO = -1e30


@dataclass(frozen=True)
class Told:
    """What a teacher tells of each token: a `Measure`.

    ``teacher_logprobs``: float32 ``[n, tokens]`` of all; or ``[n, k + 1]`` of the tokens ``teacher_ids`` (int32
    ``[n, k]``, the ``top_k`` likeliest, the likeliest first) and of all others. k = min(top_k, num_tokens).

    ``num_tokens``: those that the tokenizer has. Rows of a head beyond them, which only fill it up, are not read: the
    distribution is that of what can be said at all.
    """

    top_k: int | None
    num_tokens: int

    @property
    def names(self) -> tuple[str, ...]:
        """What it answers."""
        return ("teacher_logprobs",) if self.top_k is None else ("teacher_logprobs", "teacher_ids")

    def __call__(self, logits: Tensor, targets: Tensor, tokens: slice) -> dict[str, Tensor]:  # noqa: ARG002 - Measure
        """See `Measure`."""
        said = logits[:, : self.num_tokens]
        if self.top_k is None:
            return {"teacher_logprobs": said.log_softmax(-1)}
        ids = said.topk(min(self.top_k, said.shape[1])).indices
        return {"teacher_logprobs": log_outcomes(said, ids), "teacher_ids": ids.to(torch.int32)}


@dataclass(frozen=True)
class Compared:
    """How far each token's distribution is from what the teacher told: a `Measure`.

    Each ``[n]``: ``divergence``, see `divergence`, of both at ``temperature`` (the teacher's is told so); ``logprobs``
    of the targets at temperature 1; ``teacher_rest``, the teacher's probability of all that it does not name.
    """

    teacher_logprobs: Tensor
    teacher_ids: Tensor | None
    kind: Divergence
    beta: float
    temperature: float
    num_tokens: int

    names: ClassVar[tuple[str, ...]] = ("divergence", "logprobs", "teacher_rest")

    def __call__(self, logits: Tensor, targets: Tensor, tokens: slice) -> dict[str, Tensor]:
        """See `Measure`."""
        with torch.no_grad():
            logprobs = logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(-1)
        student, teacher = logits[:, : self.num_tokens] / self.temperature, self.teacher_logprobs[tokens]
        if self.teacher_ids is None:
            student, rest = student.log_softmax(-1), torch.zeros_like(logprobs)
        else:
            student, rest = log_outcomes(student, self.teacher_ids[tokens]), teacher[:, -1].exp()
        return {
            "divergence": divergence(student, teacher.to(student.dtype), self.kind, self.beta),
            "logprobs": logprobs,
            "teacher_rest": rest.to(logprobs.dtype),
        }


def log_outcomes(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities ``[n, k + 1]`` of the tokens ``ids [n, k]`` and, last, of all others together (-inf where there
    are none), from ``logits [n, vocab]``. The rest is summed up itself: one less the others' sum would be rounding."""
    named, total = logits.gather(1, ids), logits.logsumexp(-1, keepdim=True)
    if ids.shape[1] < logits.shape[1]:
        rest = logits.scatter(1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    else:
        rest = torch.full_like(total, -torch.inf)
    return torch.cat([named, rest], dim=1) - total


def divergence(student: Tensor, teacher: Tensor, kind: Divergence, beta: float = 0.5) -> Tensor:
    """Nats ``[n]`` between log-probabilities ``[n, outcomes]``. With p the teacher's and q the student's:

    * ``forward``: KL(p || q), what the teacher does is to be covered (Hinton et al. 2015; Kim and Rush 2016)
    * ``reverse``: KL(q || p), what the student does is to be likely (Gu et al. 2024, MiniLLM)
    * ``js``: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q, the generalized Jensen-Shannon
      divergence (Agarwal et al. 2024, GKD, eq. 1). As beta goes to 0 (to 1), JS / beta (JS / (1 - beta)) goes to the
      forward (reverse) KL; TRL takes its beta 0 and 1 to mean those themselves.
    """
    log_q, log_p = student.clamp(min=_LOG_ZERO), teacher.clamp(min=_LOG_ZERO)
    if kind == "forward":
        return _kl(log_p, log_q)
    if kind == "reverse":
        return _kl(log_q, log_p)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def _kl(one: Tensor, other: Tensor) -> Tensor:
    return (one.exp() * (one - other)).sum(-1)
