"""Divergences by hand and against TRL; what is told of a teacher, and what is dropped of it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from distft.algorithms.divergences import Compared, Divergence, Told, divergence, log_outcomes

P = torch.tensor([[0.5, 0.25, 0.25]]).log()  # the teacher
Q = torch.tensor([[0.25, 0.25, 0.5]]).log()  # the student
LN2 = math.log(2)
# TRL's beta for what it takes to be the KL divergences themselves.
TRL_BETA: dict[Divergence, float] = {"forward": 0.0, "reverse": 1.0, "js": 0.3}


def random_logits(seed: int, num_tokens: int = 9, vocab: int = 23) -> Tensor:
    return torch.randn(num_tokens, vocab, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # 0.5 ln 2 + 0 - 0.25 ln 2, and the same the other way round.
        ("forward", 0.25 * LN2),
        ("reverse", 0.25 * LN2),
        # The mixture is (0.375, 0.25, 0.375).
        ("js", 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3)),
    ],
)
def test_by_hand(kind: Divergence, expected: float) -> None:
    assert float(divergence(Q, P, kind)) == pytest.approx(expected, rel=1e-6)
    assert float(divergence(P, P, kind)) == pytest.approx(0, abs=1e-7)


def test_forward_covers_and_reverse_keeps_to_what_is_likely() -> None:
    """A student that has nothing where the teacher has half is infinitely far by forward KL, and ln 2 by reverse."""
    one = torch.tensor([[0.0, -math.inf]])
    half = torch.full((1, 2), -LN2)
    assert float(divergence(one, half, "reverse")) == pytest.approx(LN2)
    assert float(divergence(one, half, "forward")) > 1e20
    assert float(divergence(half, one, "forward")) == pytest.approx(LN2)


@pytest.mark.parametrize("beta", [1e-6, 1 - 1e-6])
def test_js_goes_to_the_kl_divergences(beta: float) -> None:
    student, teacher = (random_logits(seed).double().log_softmax(-1) for seed in (1, 2))
    found = divergence(student, teacher, "js", beta) / min(beta, 1 - beta)
    expected = divergence(student, teacher, "forward" if beta < 0.5 else "reverse")
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_parity_with_trls_gkd(kind: Divergence, temperature: float) -> None:
    """The loss and its gradients, of given rows some of whose tokens are not learned."""
    from trl.experimental.gkd import GKDTrainer

    teacher, learned = random_logits(2), torch.arange(9) % 3 != 0
    ours, theirs = (random_logits(1).requires_grad_() for _ in range(2))
    expected = GKDTrainer.generalized_jsd_loss(
        theirs[None], teacher[None], labels=torch.where(learned, 1, -100)[None], beta=TRL_BETA[kind],
        temperature=temperature,
    )  # fmt: skip
    told = Told(None, 23)(teacher / temperature, torch.zeros(9, dtype=torch.int64), slice(0, 9))["teacher_logprobs"]
    compare = Compared(told, None, kind, TRL_BETA["js"], temperature, 23)
    found = compare(ours, torch.zeros(9, dtype=torch.int64), slice(0, 9))["divergence"][learned].mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for loss in (found, expected):
        loss.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.slow  # its file imports vLLM
def test_parity_with_trls_tail() -> None:
    """Its forward KL over the likeliest tokens and one outcome for all others, where rounding lets it tell the rest."""
    from trl.experimental.server_distillation import server_distillation_trainer as trl

    teacher, student, nothing = random_logits(2), random_logits(1), torch.zeros(9, dtype=torch.int64)
    told = Told(4, 23)(teacher, nothing, slice(0, 9))
    ids = told["teacher_ids"].long()
    named = [logits.log_softmax(-1).gather(1, ids) for logits in (student, teacher)]
    (q, mask), (p, _) = (trl._add_tail_bucket(one, torch.ones_like(ids, dtype=torch.bool)) for one in named)
    expected = trl._jsd_divergence(q, p, 0.0, mask).sum(-1)
    found = Compared(told["teacher_logprobs"], ids, "forward", 0.5, 1.0, 23)(student, nothing, slice(0, 9))
    torch.testing.assert_close(found["divergence"], expected, rtol=1e-5, atol=1e-5)


def test_what_is_told_is_all_of_the_mass() -> None:
    told = Told(4, 23)(random_logits(2), torch.zeros(9, dtype=torch.int64), slice(0, 9))
    torch.testing.assert_close(told["teacher_logprobs"].logsumexp(-1), torch.zeros(9), rtol=0, atol=1e-6)
    assert told["teacher_ids"].dtype == torch.int32
    assert told["teacher_logprobs"].shape == (9, 5)
    assert bool((told["teacher_logprobs"][:, :4].diff(dim=1) <= 0).all()), "the likeliest first"


def test_a_rest_below_rounding_is_told_exactly() -> None:
    """One less the sum of the others would be 0, or worse: the rest has e^-40 of the mass, and is told so."""
    logits = torch.tensor([[0.0, -40.0, -41.0]])
    told = log_outcomes(logits, torch.tensor([[0]]))
    assert float(told[0, 1]) == pytest.approx(-40 + math.log1p(math.exp(-1)), rel=1e-6)


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_what_is_dropped_makes_it_less_and_never_more(kind: Divergence) -> None:
    """The more tokens are named, the nearer to the whole vocabulary's from below; all of them named, it is that."""
    teacher, student, nothing = random_logits(2), random_logits(1), torch.zeros(9, dtype=torch.int64)
    found = []
    for top_k in (1, 4, 12, 22, 23, 99, None):
        told = Told(top_k, 23)(teacher, nothing, slice(0, 9))
        ids = told["teacher_ids"].long() if "teacher_ids" in told else None
        read = Compared(told["teacher_logprobs"], ids, kind, 0.5, 1.0, 23)(student, nothing, slice(0, 9))
        found.append(read["divergence"])
        rest = float(read["teacher_rest"].max())
        assert rest == 0 if top_k is None or top_k > 22 else rest > 0
    for fewer, more in pairwise(found[:4]):
        assert bool((fewer <= more + 1e-6).all())
        assert float(fewer.sum()) < float(more.sum())
    for exact in found[3:]:  # 22 named leave one: nothing is merged
        torch.testing.assert_close(exact, found[-1], rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_the_merged_distribution() -> None:
    """At every logit, named or not, where the rest is one token and where there is none."""
    teacher, nothing = random_logits(2, vocab=6).double(), torch.zeros(9, dtype=torch.int64)
    student = random_logits(1, vocab=6).double().requires_grad_()
    for kind in TRL_BETA:
        for top_k in (2, 5, 6):
            told = Told(top_k, 6)(teacher, nothing, slice(0, 9))
            compare = Compared(told["teacher_logprobs"], told["teacher_ids"].long(), kind, 0.3, 1.3, 6)
            assert torch.autograd.gradcheck(lambda x, c=compare: c(x, nothing, slice(0, 9))["divergence"], student)


def test_rows_of_the_head_that_no_token_has_are_not_read() -> None:
    """Qwen's heads are filled up, by other numbers of rows in other sizes of model."""
    teacher, student, nothing = random_logits(2), random_logits(1), torch.zeros(9, dtype=torch.int64)
    wide, wider = torch.cat([student, random_logits(3)[:, :3]], 1), torch.cat([teacher, random_logits(4)[:, :8]], 1)
    for top_k in (3, None):
        read = []
        for p, q in ((teacher, student), (wider, wide)):
            told = Told(top_k, 23)(p, nothing, slice(0, 9))
            ids = told["teacher_ids"].long() if "teacher_ids" in told else None
            read.append(Compared(told["teacher_logprobs"], ids, "reverse", 0.5, 1.0, 23)(q, nothing, slice(0, 9)))
        torch.testing.assert_close(read[0]["divergence"], read[1]["divergence"])
