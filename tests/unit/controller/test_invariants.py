"""A violated invariant stops the run and says which; rounding, over however many tokens, does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from distft.batches import Difference
from distft.config.load import load_recipe
from distft.controller.invariants import (
    InvariantViolated,
    beyond_rounding,
    check_first_loss,
    check_generator,
    check_reference,
)

RECIPE = load_recipe("ppo-tiny")
BF16 = load_recipe("ppo-tiny", ["models.policy.dtype=bfloat16"])


def far(difference: float) -> Difference:
    return Difference(difference, difference, difference)


def drawn(count: int, scale: float, *, outlier: float = 0.0) -> Difference:
    """Of log-probs that differ by Laplace noise of mean |x| ``scale``, one of them by ``outlier`` more."""
    noise = np.random.default_rng(0).laplace(scale=scale, size=count)
    noise[count // 2] += outlier
    return Difference.of(noise, np.zeros(count))


def test_rounding_passes() -> None:
    check_reference(RECIPE, far(1e-6))
    check_generator(RECIPE, far(1e-6))
    check_first_loss("DPO", math.log(2) + 1e-7, math.log(2), 1e-5)


def test_the_maximum_of_many_tokens_is_no_judge() -> None:
    """262,144 tokens of a deep bf16 model: 0.03 nats in the mean, a token that is 0.62 off."""
    correct = drawn(2**18, 0.03, outlier=0.6)
    assert correct.max > 0.5
    for check in (check_generator, check_reference):
        check(BF16, correct)


@pytest.mark.parametrize("scale", [0.25, 0.4])
def test_a_difference_of_most_tokens_is_another_model(scale: float) -> None:
    """As a fine-tuned model and its base, in bf16."""
    for check in (check_generator, check_reference):
        with pytest.raises(InvariantViolated, match=r"nats in the mean, .* in the 99.9 % quantile"):
            check(BF16, drawn(4096, scale))


def test_a_few_tokens_far_off_are_another_model_too() -> None:
    """One response in a hundred was sampled from something else: the mean would not show it."""
    noise = np.zeros(10_000)
    noise[:100] = 4.0
    few = Difference.of(noise, np.zeros(10_000))
    assert few.mean < 0.1
    with pytest.raises(InvariantViolated):
        check_generator(BF16, few)


@torch.no_grad()
def test_80_random_layers_in_bf16_are_rounding() -> None:
    """The trainer's pass and a generator's, with a cache and padding on the left, of the very same weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=80, num_attention_heads=4,
        initializer_range=0.15, tie_word_embeddings=False,
    )  # fmt: skip
    model, rows, pad = LlamaForCausalLM(config).to(torch.bfloat16).eval(), torch.randint(512, (8, 24)), 5
    whole = token_logprobs(model(input_ids=rows).logits, rows)[:, 7:]
    padded = torch.nn.functional.pad(rows, (pad, 0))
    mask, places = (torch.arange(pad + 24) >= pad).long().expand(8, -1), torch.arange(24)
    cache, found = DynamicCache(config=config), []
    for start, stop in ((0, pad + 8), *((at, at + 1) for at in range(pad + 8, pad + 23))):
        logits = model(
            input_ids=padded[:, start:stop],
            attention_mask=mask[:, :stop],
            position_ids=torch.nn.functional.pad(places, (pad, 0))[None, start:stop],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1:]
        found.append(token_logprobs(torch.cat([logits, logits], 1), padded[:, stop - 1 : stop + 1]))
    difference = Difference.of(whole.numpy(), torch.cat(found, 1).numpy())
    assert difference.mean > 0.01, "not the rounding that this test is about"
    check_generator(BF16, difference)


def token_logprobs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probs ``[rows, n - 1]`` of all ids but the first."""
    return torch.log_softmax(logits[:, :-1].float(), -1).gather(-1, ids[:, 1:, None])[..., 0]


@pytest.mark.parametrize("difference", [0.01, math.inf, math.nan])
def test_another_reference_is_named(difference: float) -> None:
    with pytest.raises(InvariantViolated, match="reference.*models.reference.differs"):
        check_reference(RECIPE, far(difference))


def test_a_reference_that_is_meant_to_differ_passes() -> None:
    meant = load_recipe("ppo-tiny", ["models.reference.differs=true", "models.reference.path=elsewhere"])
    check_reference(meant, far(3.0))


def test_virtual_tokens_are_no_start_at_the_reference() -> None:
    check_reference(load_recipe("dpo-tiny", ["models.policy.peft.method=prompt"]), far(3.0))
    with pytest.raises(InvariantViolated):
        check_reference(load_recipe("dpo-tiny", ["models.policy.peft.method=lora"]), far(3.0))


@pytest.mark.parametrize("difference", [0.01, math.nan])
def test_a_stale_generator_is_named(difference: float) -> None:
    with pytest.raises(InvariantViolated, match="generator"):
        check_generator(RECIPE, far(difference))


def test_a_nan_anywhere_is_not_rounding() -> None:
    assert "nan" in beyond_rounding(RECIPE, Difference.of(np.array([0.0, np.nan]), np.zeros(2)))
    assert Difference.of(np.zeros(0), np.zeros(0)) == far(0.0)


@pytest.mark.parametrize("loss", [0.5, math.nan])
def test_a_first_loss_that_is_not_ln_2(loss: float) -> None:
    with pytest.raises(InvariantViolated, match="DPO loss"):
        check_first_loss("DPO", loss, math.log(2), 1e-5)


def test_it_is_a_failed_run() -> None:
    with pytest.raises(InvariantViolated) as caught:
        check_generator(RECIPE, far(1.0))
    assert caught.value.exit_status == 1
    assert caught.value.kind == "invariant"
