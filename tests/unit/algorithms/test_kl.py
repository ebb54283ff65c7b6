from __future__ import annotations

import pytest
import torch

from distft.algorithms.kl import adapted_kl_coef, token_kl

LOG_2 = 0.6931471805599453


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", [LOG_2, -LOG_2]), ("k2", [LOG_2**2 / 2] * 2), ("k3", [0.5 - 1 + LOG_2, 2 - 1 - LOG_2])],
)
def test_estimators_by_hand(estimator: str, expected: list[float]) -> None:
    logprobs = torch.tensor([-1.0, -2.0])
    kl = token_kl(logprobs, logprobs - torch.tensor([LOG_2, -LOG_2]), estimator)
    torch.testing.assert_close(kl, torch.tensor(expected))


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.log_softmax(torch.randn(2, 6, generator=generator, dtype=torch.float64), -1)
    exact = (policy.exp() * (policy - reference)).sum()
    for estimator in ("k1", "k3"):
        expectation = (policy.exp() * token_kl(policy, reference, estimator)).sum()
        torch.testing.assert_close(expectation, exact)
    assert (token_kl(policy, reference, "k3") >= 0).all()


def test_k3_keeps_its_digits_near_zero_and_its_gradient_far_away() -> None:
    near = token_kl(torch.tensor([1e-3]), torch.tensor([0.0]), "k3")
    torch.testing.assert_close(near, torch.tensor([4.99833e-7]), rtol=1e-3, atol=0)
    far = torch.tensor([-40.0], requires_grad=True)
    token_kl(far, torch.tensor([0.0]), "k3").sum().backward()
    assert far.grad is not None
    assert far.grad.item() < -1e17


def test_unknown_estimator() -> None:
    with pytest.raises(ValueError, match="k4"):
        token_kl(torch.zeros(1), torch.zeros(1), "k4")


@pytest.mark.parametrize(("observed", "factor"), [(6.0, 1.0), (6.6, 1.001), (60.0, 1.002), (0.0, 0.998), (5.4, 0.999)])
def test_adaptive_controller_by_hand(observed: float, factor: float) -> None:
    coef = adapted_kl_coef(0.2, observed, target=6.0, horizon=10_000, num_samples=100)
    assert coef == pytest.approx(0.2 * factor, rel=1e-12)


@pytest.mark.parametrize(("target", "horizon"), [(0.0, 1.0), (1.0, 0.0)])
def test_controller_rejects_what_it_would_divide_by(target: float, horizon: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        adapted_kl_coef(0.2, 1.0, target=target, horizon=horizon, num_samples=1)
