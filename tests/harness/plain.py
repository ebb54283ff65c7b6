"""The runs of the layout tests once more in plain, single-process torch (``tests.reference``).

The tokens come from the tokenizer alone; only what is a matter of definition is taken from distft: the order of the
units, the minibatches and the uniform numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from distft.data.sampler import take
from distft.experience.schedule import minibatches
from distft.rollout.sampling import uniforms
from tests.harness.corpus import PAIRS, Starts
from tests.harness.recipes import NEW_TOKENS, RATE, VALUE_RATE
from tests.harness.rules import letters_e
from tests.reference import ppo_reference as ppo
from tests.reference.supervised_reference import Row, dpo_step
from tests.reference.tiny_models import read_t5

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PlainDpo:
    """Metrics of each step and the final weights."""

    metrics: list[dict[str, float]]
    weights: Weights


@dataclass(frozen=True)
class PlainPpo:
    """Iterations and final weights by role. ``minibatches[i]``: the sample numbers of iteration i's optimizer steps."""

    iterations: list[ppo.Iteration]
    minibatches: list[list[list[int]]]
    weights: dict[str, Weights]

    def metrics(self) -> list[dict[str, float]]:
        """Each iteration's metrics under distft's names."""
        return [
            _renamed(iteration.metrics) | {"val/explained_variance": _explained_variance(iteration, steps)}
            for iteration, steps in zip(self.iterations, self.minibatches, strict=True)
        ]

    def rollouts(self) -> list[list[list[int]]]:
        """The response tokens of each iteration and sample."""
        return [[sample.response for sample in iteration.samples] for iteration in self.iterations]


def plain_dpo(starts: Starts, recipe: Mapping[str, Any]) -> PlainDpo:
    """The DPO run of ``dpo_recipe``."""
    tokenizer = AutoTokenizer.from_pretrained(starts.policy)
    policy, reference = (causal(starts.policy) for _ in range(2))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=0.0)
    metrics = []
    for units in units_of(recipe):
        pairs = [(_row(tokenizer, unit, "chosen"), _row(tokenizer, unit, "rejected")) for unit in units]
        metrics.append(dpo_step(policy, reference, optimizer, pairs, 1.0).metrics)
    return PlainDpo(metrics, weights_of(policy))


def plain_ppo(starts: Starts, recipe: Mapping[str, Any]) -> PlainPpo:
    """The PPO run of ``ppo_recipe`` with whatever algorithm keys it has."""
    policy, reference = (causal(starts.policy) for _ in range(2))
    return _plain_ppo(starts, recipe, policy, reference, scalar(starts.reward), scalar(starts.value))


def plain_apart_ppo(starts: Starts, recipe: Mapping[str, Any]) -> PlainPpo:
    """The PPO run of ``apart_ppo_recipe``: an encoder-decoder, scored by a rule."""
    policy, reference = (_all_trained(read_t5(starts.apart)) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(starts.policy)

    def rule(response: Sequence[int]) -> float:
        return letters_e([""], [tokenizer.decode(list(response), skip_special_tokens=True)])[0]

    return _plain_ppo(starts, recipe, policy, reference, rule, scalar(starts.apart_value))


def _plain_ppo(
    starts: Starts, recipe: Mapping[str, Any], policy: Any, reference: Any, reward: ppo.Reward, value: Any
) -> PlainPpo:
    tokenizer = AutoTokenizer.from_pretrained(starts.policy)
    keys = dict(recipe["algorithm"])
    epochs, number = keys.pop("epochs"), keys.pop("minibatches")
    del keys["kind"]
    repeats, seed = recipe["rollout"]["samples_per_prompt"], recipe["seed"]
    units = units_of(recipe)
    prompts = [[tokenizer(PAIRS[unit]["prompt"])["input_ids"] for unit in row for _ in range(repeats)] for row in units]
    draws = [
        torch.tensor([uniforms(seed, iteration, sample, NEW_TOKENS).tolist() for sample in range(len(row))],
                     dtype=torch.float64)
        for iteration, row in enumerate(prompts, 1)
    ]  # fmt: skip
    passes = [
        [minibatches(range(len(prompts[0])), number, seed, iteration * epochs + epoch) for epoch in range(epochs)]
        for iteration in range(len(units))
    ]
    settings = ppo.Settings(
        eos_id=int(tokenizer.eos_token_id),
        max_new_tokens=NEW_TOKENS,
        temperature=recipe["rollout"]["temperature"],
        learning_rate=RATE,
        value_learning_rate=VALUE_RATE,
        eps=recipe["optimizer"].get("eps", 1e-8),
        **keys,
    )
    iterations = ppo.run_ppo(policy, reference, reward, value, prompts, draws, passes, settings)
    steps = [[chosen for one in these for chosen in one] for these in passes]
    return PlainPpo(iterations, steps, {"policy": weights_of(policy), "value": weights_of(value)})


def causal(folder: Any) -> Any:
    """A language model in float32."""
    return _all_trained(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def scalar(folder: Any) -> Any:
    """A model with a scalar head in float32."""
    return _all_trained(AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, num_labels=1))


def _all_trained(model: Any) -> Any:
    """With the padding token's embedding trained too, where a policy samples it or it is the end of sequence."""
    model.get_input_embeddings().padding_idx = None
    return model


def weights_of(model: torch.nn.Module) -> Weights:
    """The weights by name, each tied one once."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def units_of(recipe: Mapping[str, Any]) -> list[list[int]]:
    """The units of each step."""
    train = recipe["train"]
    batch, shuffle = train["global_batch_size"], recipe["data"].get("shuffle", True)
    visits = take(len(PAIRS), 0, train["steps"] * batch, recipe["seed"], shuffle)
    return [[unit for _, unit in visits[start : start + batch]] for start in range(0, len(visits), batch)]


def _row(tokenizer: Any, unit: int, side: str) -> Row:
    """Prompt and answer tokenised together, EOS behind the answer."""
    pair = PAIRS[unit]
    prompt = tokenizer(pair["prompt"])["input_ids"]
    both = tokenizer(pair["prompt"] + pair[side])["input_ids"]
    assert both[: len(prompt)] == prompt, "a token lies across the border: choose other rows"
    return Row.of(prompt, [*both[len(prompt) :], tokenizer.eos_token_id])


def _renamed(metrics: Mapping[str, float]) -> dict[str, float]:
    names = {"value_grad_norm": "value/grad_norm"}
    return {names.get(name, name): value for name, value in metrics.items()}


def _explained_variance(iteration: ppo.Iteration, steps: list[list[int]]) -> float:
    """As every update metric: the mean over the optimizer steps, each over the tokens of its minibatch."""
    found = []
    for numbers in steps:
        returns = torch.cat([iteration.samples[number].returns for number in numbers]).double()
        values = torch.cat([iteration.samples[number].values for number in numbers]).double()
        spread = float(returns.var(unbiased=False))  # of a single token there is none to explain
        found.append(1 - float((returns - values).var(unbiased=False)) / spread if spread else 0.0)
    return sum(found) / len(found)
