"""A measure chunk by chunk is the measure of all logits at once: its values and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from distft.algorithms.divergences import Compared, Divergence, Told
from distft.algorithms.linear_logprobs import LogitMap
from distft.algorithms.measured import measured

TOKENS, WIDTH, VOCAB = 11, 5, 17
TEMPERATURE = 1.7


def given(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden": torch.randn(TOKENS, WIDTH, generator=generator).to(dtype),
        "head": torch.randn(VOCAB, WIDTH, generator=generator).to(dtype),
        "bias": torch.randn(VOCAB, generator=generator).to(dtype),
        "targets": torch.randint(VOCAB, (TOKENS,), generator=generator),
        "teacher": torch.randn(TOKENS, VOCAB, generator=generator),
        "weights": torch.rand(TOKENS, generator=generator),
    }


def compare(teacher: Tensor, top_k: int | None) -> Compared:
    told = Told(top_k, VOCAB)(teacher, torch.zeros(TOKENS, dtype=torch.int64), slice(0, TOKENS))
    ids = told["teacher_ids"].long() if "teacher_ids" in told else None
    return Compared(told["teacher_logprobs"], ids, "js", 0.4, 1.3, VOCAB)


@pytest.mark.parametrize("elements", [1, 3 * VOCAB, 10**6])
@pytest.mark.parametrize("logit_map", [LogitMap(), LogitMap(scale=0.5, cap=3.0)])
@pytest.mark.parametrize("top_k", [3, None])
def test_chunks_change_nothing(top_k: int | None, logit_map: LogitMap, elements: int) -> None:
    data = given()
    measure = compare(data["teacher"], top_k)
    named = ("hidden", "head", "bias")
    ours, theirs = ({name: data[name].clone().requires_grad_() for name in named} for _ in range(2))
    found = measured(
        ours["hidden"], data["targets"], measure, head=ours["head"], bias=ours["bias"], logit_map=logit_map,
        temperature=TEMPERATURE, chunk_elements=elements,
    )  # fmt: skip
    logits = logit_map.of(functional.linear(theirs["hidden"], theirs["head"], theirs["bias"])) / TEMPERATURE
    expected = measure(logits, data["targets"], slice(0, TOKENS))
    assert tuple(found) == measure.names
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-5, atol=1e-6)
    for read in (found, expected):
        (read["divergence"] * data["weights"]).sum().backward()
    for name in named:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize(("kind", "beta"), [("forward", 0.0), ("reverse", 1.0), ("js", 0.3)])
def test_parity_with_trls_chunked_distillation(kind: Divergence, beta: float, cap: float | None) -> None:
    """Its kernel over hidden states and heads of both models: values, and the gradients of states and head."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    data, other = given(), given(seed=9)
    ours, theirs = (
        {name: data[name].clone().requires_grad_() for name in ("hidden", "head", "bias")} for _ in range(2)
    )
    expected, _ = ChunkedDivergenceFunction.apply(
        theirs["hidden"], theirs["head"], theirs["bias"], other["hidden"], other["head"], other["bias"], beta,
        TEMPERATURE, 0.5, cap, 1.0, None,
    )  # fmt: skip
    logits = functional.linear(other["hidden"], other["head"], other["bias"]) / TEMPERATURE
    nothing = torch.zeros(TOKENS, dtype=torch.int64)
    told = Told(None, VOCAB)(logits, nothing, slice(0, TOKENS))["teacher_logprobs"]
    found = measured(
        ours["hidden"], data["targets"], Compared(told, None, kind, 0.3, TEMPERATURE, VOCAB), head=ours["head"],
        bias=ours["bias"], logit_map=LogitMap(scale=0.5, cap=cap), chunk_elements=3 * VOCAB,
    )["divergence"]  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for read in (found, expected):
        (read * data["weights"]).sum().backward()
    for name in ("hidden", "head", "bias"):
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, rtol=1e-5, atol=1e-6)


def test_of_logits() -> None:
    data = given()
    measure = compare(data["teacher"], 4)
    ours, theirs = (torch.randn(TOKENS, VOCAB, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    for logits in (ours.requires_grad_(), theirs.requires_grad_()):
        read = measured if logits is ours else whole
        (read(logits, data["targets"], measure)["divergence"] * data["weights"]).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)


def whole(logits: Tensor, targets: Tensor, measure: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = measure(logits, targets, slice(0, TOKENS))
    return found


def test_a_masked_token_takes_no_part_even_if_it_is_nan() -> None:
    data = given()
    hidden = data["hidden"].clone()
    hidden[4] = torch.nan
    hidden.requires_grad_()
    head = data["head"].clone().requires_grad_()
    found = measured(hidden, data["targets"], compare(data["teacher"], 3), head=head)["divergence"]
    torch.where(torch.arange(TOKENS) == 4, 0.0, found).sum().backward()
    assert hidden.grad is not None
    assert head.grad is not None
    assert bool(hidden.grad[4].eq(0).all())
    assert bool(hidden.grad.isfinite().all())


def test_a_frozen_head_gets_no_gradient() -> None:
    data = given()
    hidden = data["hidden"].clone().requires_grad_()
    measured(hidden, data["targets"], compare(data["teacher"], 3), head=data["head"])["divergence"].sum().backward()
    assert hidden.grad is not None
    assert data["head"].grad is None


def test_in_bfloat16_the_heads_gradient_is_summed_in_float32() -> None:
    """As near to float32 in eleven chunks as in one."""
    data, half = given(), given(dtype=torch.bfloat16)
    measure = compare(data["teacher"], 3)
    grads = []
    for elements in (1, 10**6):
        head = half["head"].clone().requires_grad_()
        read = measured(half["hidden"], data["targets"], measure, head=head, chunk_elements=elements)
        read["divergence"].sum().backward()
        assert head.grad is not None
        grads.append(head.grad.float())
    exact = data["head"].bfloat16().float().requires_grad_()
    measured(half["hidden"].float(), data["targets"], measure, head=exact)["divergence"].sum().backward()
    assert exact.grad is not None
    off = [float((grad - exact.grad).norm() / exact.grad.norm()) for grad in grads]
    assert off[0] < 0.01
    assert off[1] < 0.01


def test_what_does_not_fit_is_refused() -> None:
    data = given()
    with pytest.raises(ValueError, match="do not fit"):
        measured(data["hidden"], data["targets"][1:], compare(data["teacher"], 3), head=data["head"])
    with pytest.raises(ValueError, match="temperature"):
        measured(data["hidden"], data["targets"], compare(data["teacher"], 3), head=data["head"], temperature=0.0)
