"""The fused path is the plain one: the head's product, what the model does to it, and `token_logprobs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distft.algorithms.linear_logprobs import LogitMap, linear_logprobs
from distft.algorithms.logprobs import OUTPUTS, token_logprobs

TOKENS, WIDTH, VOCAB = 11, 5, 7
MAPS = {"none": LogitMap(), "scaled": LogitMap(scale=0.25), "capped": LogitMap(cap=3.0), "both": LogitMap(2.0, 5.0)}


def _example(
    dtype: torch.dtype = torch.float64, tokens: int = TOKENS, width: int = WIDTH, vocab: int = VOCAB
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    targets = torch.randint(0, vocab, (tokens,), generator=generator)
    return {"hidden": normal(tokens, width), "weight": normal(vocab, width), "bias": normal(vocab), "targets": targets}


def _plain(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, logit_map: LogitMap, **options: Any
) -> dict[str, Tensor]:
    logits = F.linear(hidden, weight, bias) * logit_map.scale
    if logit_map.cap is not None:
        logits = logit_map.cap * torch.tanh(logits / logit_map.cap)
    return token_logprobs(logits, targets, **options)


def _gradients(results: Mapping[str, Tensor], example: Mapping[str, Tensor]) -> list[Tensor]:
    weighing = torch.linspace(-1.0, 2.0, TOKENS, dtype=torch.float64)
    loss = sum((weighing.to(v.dtype) * v).sum() * (i + 1) for i, v in enumerate(results.values()) if v.requires_grad)
    return list(torch.autograd.grad(loss, [example[name] for name in ("hidden", "weight", "bias")]))  # type: ignore[arg-type]


@pytest.mark.parametrize("outputs", [("logprobs",), OUTPUTS])
@pytest.mark.parametrize("logit_map", [MAPS["none"], MAPS["both"]], ids=["none", "both"])
def test_gradients_equal_finite_differences(logit_map: LogitMap, outputs: tuple[str, ...]) -> None:
    example = _example(tokens=3, width=2, vocab=4)

    def function(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        found = linear_logprobs(
            hidden, weight, example["targets"], bias=bias, logit_map=logit_map, outputs=outputs, temperature=0.8,
            chunk_elements=7,
        )  # fmt: skip
        return tuple(value for value in found.values() if value.requires_grad)

    assert torch.autograd.gradcheck(function, (example["hidden"], example["weight"], example["bias"]))


@pytest.mark.parametrize("chunk_elements", [1, 20, None])
@pytest.mark.parametrize(
    ("logit_map", "temperature"), list(zip(MAPS.values(), (0.7, 1.0, 0.7, 1.0), strict=True)), ids=list(MAPS)
)
def test_values_and_gradients_are_the_plain_paths(
    logit_map: LogitMap, temperature: float, chunk_elements: int | None
) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        example = _example(dtype)
        options: dict[str, Any] = {"outputs": OUTPUTS, "temperature": temperature}
        wanted = _plain(logit_map=logit_map, **example, **options)
        found = linear_logprobs(**example, logit_map=logit_map, chunk_elements=chunk_elements, **options)
        assert found.keys() == wanted.keys()
        assert not found["logits_mean"].requires_grad
        for name, values in wanted.items():
            assert found[name].dtype == dtype
            torch.testing.assert_close(found[name], values, rtol=tolerance, atol=tolerance, msg=name)
        for mine, plain in zip(_gradients(found, example), _gradients(wanted, example), strict=True):
            assert (mine - plain).norm() <= 2 * tolerance * plain.norm()


def test_a_frozen_head_and_no_bias() -> None:
    """LoRA: the hidden states alone have a gradient."""
    example = _example()
    hidden, targets = example["hidden"], example["targets"]
    weight = example["weight"].detach()
    found = linear_logprobs(hidden, weight, targets, chunk_elements=15)["logprobs"].sum()
    wanted = _plain(hidden, weight, None, targets, LogitMap())["logprobs"].sum()
    torch.testing.assert_close(*(torch.autograd.grad(loss, hidden) for loss in (found, wanted)))


def test_a_tied_head_gets_the_gradient_of_both_its_places() -> None:
    weight = _example(tokens=1)["weight"]
    ids = torch.tensor([3, 1, 4, 1, 5])
    gradients = []
    for path in (linear_logprobs, lambda h, w, t, **_: _plain(h, w, None, t, LogitMap())):
        hidden = F.embedding(ids[:-1], weight).tanh()
        loss = path(hidden, weight, ids[1:], chunk_elements=9)["logprobs"].sum()
        gradients.append(torch.autograd.grad(loss, weight)[0])
    torch.testing.assert_close(*gradients)


def test_bfloat16_is_as_near_the_truth_as_the_plain_path() -> None:
    """The head's gradient is rounded once, not once a chunk: 64 chunks, as near as one product over all tokens."""
    example = _example(torch.bfloat16, 256, 32, 256)
    exact = {name: value.detach().double() for name, value in example.items() if name != "targets"}
    exact = {name: value.requires_grad_() for name, value in exact.items()} | {"targets": example["targets"]}
    names = ("hidden", "weight", "bias")

    def gradients(results: Mapping[str, Tensor], of: Mapping[str, Tensor]) -> list[Tensor]:
        assert results["logprobs"].dtype == torch.promote_types(of["hidden"].dtype, torch.float32)
        return list(torch.autograd.grad(results["logprobs"].mean(), [of[name] for name in names]))

    truth = gradients(_plain(logit_map=LogitMap(), **exact), exact)
    plain = gradients(_plain(logit_map=LogitMap(), **example), example)
    fused = gradients(linear_logprobs(**example, chunk_elements=256 * 4), example)
    for name, true, one, other in zip(names, truth, plain, fused, strict=True):
        assert other.dtype == torch.bfloat16
        error_plain, error_fused = ((g.double() - true).norm() / true.norm() for g in (one, other))
        assert error_fused < 1.1 * error_plain + 1e-4, name


def test_masked_tokens_with_nan_states_leave_the_others_alone() -> None:
    example = _example()
    mask = torch.arange(TOKENS) != 2
    hidden = example["hidden"].detach().clone()
    hidden[2] = float("nan")
    hidden.requires_grad_()
    weight = example["weight"].detach()
    found = linear_logprobs(hidden, weight, example["targets"], outputs=("logprobs", "entropy"), chunk_elements=15)
    sum(torch.where(mask, value, 0.0).sum() for value in found.values()).backward()
    assert hidden.grad is not None
    assert (hidden.grad[2] == 0).all()
    assert hidden.grad.isfinite().all()
    assert (hidden.grad[mask] != 0).any(1).all()


def test_no_tokens() -> None:
    example = _example(tokens=0)
    found = linear_logprobs(**example, outputs=OUTPUTS)
    found["logprobs"].sum().backward()
    assert [tuple(value.shape) for value in found.values()] == [(0,)] * 3
    assert all(example[name].grad is not None for name in ("hidden", "weight", "bias"))


def _held(function: Callable[[], object]) -> int:
    """Bytes of the largest allocation of any operation, inside of kernels too."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    return max(event.self_cpu_memory_usage for event in profile.events())


def test_the_logits_never_exist_whole() -> None:
    tokens, width, vocab = 300, 4, 200
    example = _example(torch.bfloat16, tokens, width, vocab)
    chunk = 1400
    float32_chunk = 4 * chunk

    def forward() -> dict[str, Tensor]:
        return linear_logprobs(**example, outputs=OUTPUTS, chunk_elements=chunk)

    assert _held(forward) <= float32_chunk
    result = forward()
    loss = result["logprobs"].sum() + result["entropy"].sum()
    assert _held(loss.backward) <= float32_chunk
    assert float32_chunk < tokens * vocab * 2 / 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"outputs": ("logprob",)}, "unknown outputs"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, "do not fit"),
        ({"weight": torch.zeros(VOCAB, WIDTH + 1)}, "do not fit"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_logprobs(**{**_example(), **changes})
