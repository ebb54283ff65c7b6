"""Rows and start models of the layout tests: as small as they can be and still tell right from wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.reference.tiny_models import save_llama, train_tokenizer

WORDS = ("red", "green", "blue", "old", "new", "warm", "cold", "quiet")
EOS_LOGIT = 3.5  # some responses end, some are cut: see _make_decided
THINGS = ("house", "river", "garden", "song", "letter")
PAIRS = [
    {
        "prompt": f"Tell me of the {thing}" + " near the sea" * (number % 4) + ".",
        "chosen": f" The {thing} is {word} and I like it." + " Very much." * (number % 3),
        "rejected": f" No {word}." + f" Never a {thing}." * (number % 2),
    }
    for number, (word, thing) in enumerate((word, thing) for thing in THINGS for word in WORDS)
]


@dataclass(frozen=True)
class Starts:
    """Folders of start models that share a tokenizer, and the rows that all of them read."""

    policy: Path
    other_policy: Path  # the policy with perturbed weights
    reward: Path
    value: Path
    rows: Path


def make_starts(folder: Path) -> Starts:
    """Writes everything below ``folder``."""
    tokenizer = train_tokenizer((" ".join(pair.values()) for pair in PAIRS), 400)
    policy = save_llama(folder / "policy", tokenizer, seed=1)
    _make_decided(policy, tokenizer)
    other = folder / "other-policy"
    perturbed = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in perturbed.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    perturbed.save_pretrained(other)
    tokenizer.save_pretrained(other)
    rows = folder / "pairs.jsonl"
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return Starts(
        policy=policy,
        other_policy=other,
        reward=save_llama(folder / "reward", tokenizer, scalar_head=True, seed=2),
        value=save_llama(folder / "value", tokenizer, scalar_head=True, seed=3),
        rows=rows,
    )


def _make_decided(folder: Path, tokenizer: Any) -> None:
    """Gives the policy a distribution that is far from uniform, in which some answers end and some do not.

    A fresh model is nearly uniform: any wrong token would have the right log-prob, and no response would end.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = [tokenizer(pair["prompt"])["input_ids"] for pair in PAIRS[:8]]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(8.0 if "embed" in name else 16.0 if parameter.dim() > 1 else 1.0)
        states = [model.model(torch.tensor([prompt])).last_hidden_state[0] for prompt in prompts]
        towards = torch.cat(states).mean(dim=0)
        model.model.embed_tokens.weight[tokenizer.eos_token_id] = EOS_LOGIT * towards / towards.square().sum()
    model.save_pretrained(folder)
