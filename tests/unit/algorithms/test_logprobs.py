from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distft.algorithms import logprobs as module
from distft.algorithms.logprobs import OUTPUTS, token_logprobs


def _example(num_tokens: int = 11, vocab: int = 7, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(num_tokens, vocab, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.randint(0, vocab, (num_tokens,), generator=generator)


@pytest.mark.parametrize("chunk_size", [1, 4, 11, 100, None])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_equal_the_plain_formula(chunk_size: int | None, temperature: float) -> None:
    logits, targets = _example()
    result = token_logprobs(logits, targets, outputs=OUTPUTS, temperature=temperature, chunk_size=chunk_size)
    log_p = torch.log_softmax(logits / temperature, -1)
    torch.testing.assert_close(result["logprobs"], log_p.gather(1, targets[:, None])[:, 0])
    torch.testing.assert_close(result["entropy"], -(log_p.exp() * log_p).sum(-1))
    torch.testing.assert_close(result["logits_mean"], logits.mean(-1))
    assert not result["logits_mean"].requires_grad


@pytest.mark.parametrize("outputs", [("logprobs",), ("entropy",), ("logprobs", "entropy")])
def test_gradient_equals_finite_differences(outputs: tuple[str, ...]) -> None:
    logits, targets = _example()

    def function(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(token_logprobs(x, targets, outputs=outputs, temperature=0.8, chunk_size=4).values())

    assert torch.autograd.gradcheck(function, (logits,))


def test_bfloat16_logits_give_float32_results_and_bfloat16_gradients() -> None:
    logits, targets = _example(64, 50, torch.bfloat16)
    result = token_logprobs(logits, targets, outputs=("logprobs", "entropy"))
    (-result["logprobs"].mean() - 0.1 * result["entropy"].mean()).backward()
    exact = logits.detach().double().requires_grad_()
    log_p = torch.log_softmax(exact, -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    (F.nll_loss(log_p, targets) - 0.1 * entropy.mean()).backward()
    assert result["logprobs"].dtype == result["entropy"].dtype == torch.float32
    torch.testing.assert_close(result["entropy"].double(), entropy, rtol=1e-6, atol=1e-6)
    assert logits.grad is not None
    assert exact.grad is not None
    assert logits.grad.dtype == torch.bfloat16
    # Rounded once, at the end: half a unit in the last place of bfloat16.
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=2**-8, atol=1e-9)


def test_masked_tokens_with_nan_logits_get_zero_gradient() -> None:
    logits, targets = _example(6, 5)
    with torch.no_grad():
        logits[2] = float("nan")
    result = token_logprobs(logits, targets, outputs=("logprobs", "entropy"), chunk_size=2)
    mask = torch.arange(6) != 2
    sum(torch.where(mask, value, 0.0).sum() for value in result.values()).backward()
    assert logits.grad is not None
    assert (logits.grad[2] == 0).all()
    assert logits.grad.isfinite().all()
    assert (logits.grad[mask] != 0).any(1).all()


def test_forbidden_tokens_have_probability_zero() -> None:
    logits, _ = _example(4, 5)
    with torch.no_grad():
        logits[:, 0] = -torch.inf
    result = token_logprobs(logits, torch.full((4,), 3), outputs=("logprobs", "entropy"))
    (result["logprobs"].sum() + result["entropy"].sum()).backward()
    rest = torch.log_softmax(logits[:, 1:], -1)
    torch.testing.assert_close(result["entropy"], -(rest.exp() * rest).sum(-1))
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[:, 0] == 0).all()


def test_no_tokens() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    result = token_logprobs(logits, torch.zeros(0, dtype=torch.int64), outputs=OUTPUTS)
    result["logprobs"].sum().backward()
    assert [tuple(value.shape) for value in result.values()] == [(0,)] * 3
    assert logits.grad is not None


def _largest_allocation(function: Callable[[], object]) -> int:
    """Bytes of the largest allocation of any operation, inside of kernels too."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    return max(event.self_cpu_memory_usage for event in profile.events())


def test_float32_exists_for_one_chunk_only() -> None:
    num_tokens, vocab, chunk_size = 600, 400, 5
    logits, targets = _example(num_tokens, vocab, torch.bfloat16)
    chunk_bytes, gradient_bytes = chunk_size * vocab * 4, num_tokens * vocab * 2

    def forward() -> dict[str, Tensor]:
        return token_logprobs(logits, targets, outputs=OUTPUTS, chunk_size=chunk_size)

    assert _largest_allocation(forward) == chunk_bytes
    result = forward()
    loss = result["logprobs"].sum() + result["entropy"].sum()
    # In the backward nothing is larger than the gradient, in the logits' own dtype.
    assert _largest_allocation(loss.backward) == gradient_bytes


def test_default_chunk_follows_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS_CPU", 8000)
    logits, targets = _example(600, 400, torch.bfloat16)
    largest = _largest_allocation(lambda: token_logprobs(logits, targets))
    assert largest == 20 * 400 * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"outputs": ("logprob",)}, "unknown outputs"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, "do not fit"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, object], message: str) -> None:
    logits, targets = _example()
    with pytest.raises(ValueError, match=message):
        token_logprobs(**{"logits": logits, "targets": targets, **changes})
