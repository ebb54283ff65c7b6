"""The draw: determinism, distribution, and what top-k, top-p, greedy and the minimum length mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from distft.rollout.generator import Sampling
from distft.rollout.sampling import InverseCdf, choose, restrict, uniforms


def draw(scores: torch.Tensor, numbers: torch.Tensor, sampling: Sampling, stops: tuple[int, ...] = ()) -> InverseCdf:
    """One step; the chosen tokens are left in ``chosen``."""
    sampler = InverseCdf(numbers.reshape(-1, 1), sampling, stops)
    sampler.chosen = sampler(torch.zeros(len(scores), 1), scores.clone()).argmax(dim=-1)  # type: ignore[attr-defined]
    return sampler


def test_uniforms_depend_on_seed_iteration_and_sample_only() -> None:
    one = uniforms(1, 2, 3, 8)
    assert one.dtype == np.float64
    assert one.tolist() == uniforms(1, 2, 3, 8).tolist()
    assert one[:5].tolist() == uniforms(1, 2, 3, 5).tolist()  # a longer response keeps its beginning
    others = [uniforms(*key, 8).tolist() for key in ((2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 23, 3), (12, 2, 3))]
    assert all(one.tolist() != other for other in others)
    on_every_machine = [0.614332891740644, 0.40690980853019676]
    assert uniforms(1, 2, 3, 2).tolist() == pytest.approx(on_every_machine, abs=1e-15)


def test_uniforms_of_all_samples_are_uniform() -> None:
    numbers = np.concatenate([uniforms(0, 0, sample, 16) for sample in range(2000)])
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    chi_square = ((counts - 1600) ** 2 / 1600).sum()
    assert chi_square < 43.8  # 19 degrees of freedom, 0.1 %


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_their_probabilities(temperature: float) -> None:
    count, logits = 20_000, torch.tensor([2.0, 0.0, -1.0, 1.0, -torch.inf, 0.5])
    numbers = torch.from_numpy(np.concatenate([uniforms(7, 0, sample, 100) for sample in range(count // 100)]))
    sampler = draw(logits.expand(count, -1), numbers, Sampling(1, temperature=temperature))
    probabilities = torch.softmax(logits.double() / temperature, dim=0)
    counts = torch.bincount(sampler.chosen, minlength=6)
    assert counts[4] == 0
    expected = probabilities[[0, 1, 2, 3, 5]] * count
    chi_square = ((counts[[0, 1, 2, 3, 5]] - expected) ** 2 / expected).sum()
    assert chi_square < 18.5  # 4 degrees of freedom, 0.1 %
    torch.testing.assert_close(sampler.logprobs[0], probabilities.log()[sampler.chosen].float())


def test_the_smallest_and_largest_draw_find_possible_tokens() -> None:
    shares = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0, 0.0]])
    top = 1.0 - 2.0**-53
    for scale in (1.0, 0.3, 1e-3, 7.7):
        assert choose(shares * scale, torch.tensor([0.0], dtype=torch.float64)).item() == 1
        assert choose(shares * scale, torch.tensor([top], dtype=torch.float64)).item() == 3
    assert choose(shares, torch.tensor([0.25], dtype=torch.float64)).item() == 3
    assert choose(shares * torch.nan, torch.tensor([0.5], dtype=torch.float64)).item() == 5


def test_a_rare_token_at_the_end_of_a_large_vocabulary_keeps_its_share() -> None:
    logits = torch.zeros(1, 131_072)
    logits[0, -1] = 5.0
    share = torch.softmax(logits.double(), dim=-1)[0, -1].item()
    at, before = (torch.tensor([1.0 - share * part], dtype=torch.float64) for part in (0.999, 1.001))
    assert draw(logits, at, Sampling(1)).chosen.item() == 131_071
    assert draw(logits, before, Sampling(1)).chosen.item() == 131_070


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.8), (0, 0.05), (7, 0.6), (1, 1.0), (500, 0.999)])
def test_top_k_and_top_p_keep_what_hugging_face_keeps(top_k: int, top_p: float) -> None:
    scores = torch.randn(64, 40, generator=torch.Generator().manual_seed(1)) * 3
    wanted = scores
    if top_k:
        wanted = TopKLogitsWarper(top_k)(None, wanted)
    if top_p < 1:
        wanted = TopPLogitsWarper(top_p)(None, wanted)
    kept = restrict(torch.softmax(scores, dim=-1), Sampling(1, top_k=top_k, top_p=top_p))
    assert torch.equal(kept > 0, wanted.isfinite())
    torch.testing.assert_close(kept / kept.sum(-1, keepdim=True), torch.softmax(wanted, dim=-1))


def test_logprobs_are_those_before_top_p_and_top_k() -> None:
    scores = torch.randn(8, 40, generator=torch.Generator().manual_seed(2))
    numbers = torch.rand(8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    sampler = draw(scores, numbers, Sampling(1, temperature=0.7, top_k=3, top_p=0.5))
    wanted = torch.log_softmax(scores / 0.7, dim=-1)[torch.arange(8), sampler.chosen]
    torch.testing.assert_close(sampler.logprobs[0], wanted)
    assert sampler.logprobs[0].dtype == torch.float32


def test_greedy_takes_the_likeliest_and_ignores_the_draw_and_the_temperature() -> None:
    scores = torch.randn(8, 40, generator=torch.Generator().manual_seed(2))
    scores[0, 3] = scores[0].max() + 1e-6  # as one after exp in float32
    for number in (0.0, 0.999):
        numbers = torch.full((8,), number, dtype=torch.float64)
        sampler = draw(scores, numbers, Sampling(1, temperature=9.0, top_k=2, top_p=0.1, greedy=True))
        assert torch.equal(sampler.chosen, scores.argmax(-1))
        torch.testing.assert_close(sampler.logprobs[0], torch.log_softmax(scores, dim=-1).amax(-1))


@pytest.mark.parametrize("greedy", [False, True])
def test_no_stop_token_before_the_minimum(greedy: bool) -> None:
    scores = torch.zeros(1, 6)
    scores[0, 2] = 20.0
    numbers = torch.full((1, 4), 0.6, dtype=torch.float64)
    sampler = InverseCdf(numbers, Sampling(4, min_new_tokens=3, greedy=greedy), (2, 4))
    chosen = [sampler(torch.zeros(1, 1), scores.clone()).argmax().item() for _ in range(4)]
    assert set(chosen[:3]).isdisjoint({2, 4})
    assert chosen[3] == 2
    # The log-prob of a token is the model's, stop tokens included: a loss will compute the same.
    assert sampler.logprobs[0].item() == pytest.approx(-20.0, abs=1e-4)


@pytest.mark.parametrize("sampling", [{"greedy": True}, {"temperature": 0.05}, {"temperature": 0.05, "top_p": 0.9}])
def test_beside_a_certain_end_the_next_likeliest_is_taken(sampling: dict[str, float]) -> None:
    """At a low temperature every share but that of the stop token is 0 in float32."""
    scores = torch.tensor([[1.0, 30.0, 2.0, 150.0, 0.0]])
    for number in (0.0, 0.999):
        sampler = draw(scores, torch.full((1,), number, dtype=torch.float64),
                       Sampling(4, min_new_tokens=1, **sampling), stops=(3,))  # fmt: skip
        assert sampler.chosen.tolist() == [1]
        divisor = 1.0 if sampling.get("greedy") else 0.05
        assert sampler.logprobs[0].item() == pytest.approx((30.0 - 150.0) / divisor)
