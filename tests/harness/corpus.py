"""Rows and start models of the layout tests: as small as they can be and still tell right from wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.harness.chat_templates import family_tokenizer
from tests.reference.tiny_models import read_t5, save_llama, save_t5, train_tokenizer

WORDS = ("red", "green", "blue", "old", "new", "warm", "cold", "quiet")
EOS_LOGIT = 3.5  # some responses end, some are cut: see _make_some_end
THINGS = ("house", "river", "garden", "song", "letter")
PAIRS = [
    {
        "prompt": f"Tell me of the {thing}" + " near the sea" * (number % 4) + ".",
        "chosen": f" The {thing} is {word} and I like it." + " Very much." * (number % 3),
        "rejected": f" No {word}." + f" Never a {thing}." * (number % 2),
    }
    for number, (word, thing) in enumerate((word, thing) for thing in THINGS for word in WORDS)
]


# Single answers that are good or bad, by turns.
LABELLED = [
    {"prompt": pair["prompt"], "completion": pair["rejected" if number % 2 else "chosen"], "label": number % 2 == 0}
    for number, pair in enumerate(PAIRS)
]

# Reward models by what their rows end with: a family's template, or none; and whether EOS is the padding too, as it is
# in TRL for a tokenizer without padding.
REWARD_ENDS: dict[str, tuple[str | None, str]] = {
    "plain": (None, "eos"),
    "qwen": ("qwen", "<|pad|>"),
    "gemma": ("gemma", "<|pad|>"),
    "phi": ("phi", "eos"),
    "mistral": ("mistral", "eos"),
    "llama": ("llama", "<|pad|>"),
}


@dataclass(frozen=True)
class RewardStart:
    """A model folder to be made a reward model of, and the pairs for it."""

    model: Path
    rows: Path

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """The rows as TRL takes them."""
        return [json.loads(line) for line in self.rows.read_text().splitlines()]


@dataclass(frozen=True)
class Starts:
    """Folders of start models that share a tokenizer, but for one, and the rows that all of them read."""

    policy: Path
    other_policy: Path  # the policy with perturbed weights
    reward: Path
    value: Path
    byte_reward: Path  # a token is a byte: three to four times as many
    apart: Path  # an encoder-decoder with a head of its own
    apart_value: Path
    rows: Path
    labelled: Path

    def reward_end(self, name: str) -> RewardStart:
        """One of ``REWARD_ENDS``, made when it is asked for."""
        start = RewardStart(self.rows.parent / f"reward-{name}", self.rows.parent / f"pairs-{name}.jsonl")
        if not start.model.is_dir():
            _make_reward_end(start, *REWARD_ENDS[name])
        return start


def make_starts(folder: Path) -> Starts:
    """Writes everything below ``folder``."""
    tokenizer = train_tokenizer((" ".join(pair.values()) for pair in PAIRS), 400)
    policy = save_llama(folder / "policy", tokenizer, seed=1)
    _make_decided(AutoModelForCausalLM, policy)
    _make_some_end(policy, tokenizer)
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
    labelled = folder / "labelled.jsonl"
    labelled.write_text("".join(json.dumps(row) + "\n" for row in LABELLED))
    reward = save_llama(folder / "reward", tokenizer, scalar_head=True, seed=2)
    value = save_llama(folder / "value", tokenizer, scalar_head=True, seed=3)
    byte_reward = save_llama(folder / "byte-reward", train_tokenizer((), 260), scalar_head=True, seed=4)
    for scalar in (reward, value, byte_reward):
        _make_decided(AutoModelForSequenceClassification, scalar)
    apart = save_t5(folder / "apart", tokenizer, seed=5)
    _make_some_answers_end(apart, tokenizer)
    apart_value = save_t5(folder / "apart-value", tokenizer, scalar_head=True, seed=6)
    return Starts(policy, other, reward, value, byte_reward, apart, apart_value, rows, labelled)


def _make_reward_end(start: RewardStart, family: str | None, pad: str) -> None:
    texts = [" ".join(pair.values()) for pair in PAIRS]
    pairs: list[dict[str, Any]] = list(PAIRS)
    if family is None:
        tokenizer = train_tokenizer(texts, 400)
        tokenizer.pad_token = tokenizer.eos_token
    else:
        tokenizer = family_tokenizer(family, texts, pad=pad)
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        pairs = [{key: [{"role": roles[key], "content": pair[key].strip()}] for key in pair} for pair in PAIRS]
    start.rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    save_llama(start.model, tokenizer, scalar_head=True, seed=2)
    _make_decided(AutoModelForSequenceClassification, start.model)
    config = json.loads((start.model / "config.json").read_text())
    (start.model / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))  # as base models say


def _make_decided(kind: Any, folder: Path) -> None:
    """Weights so large that the model's answers depend on what it reads, and its gradients are far from rounding.

    A fresh model is nearly uniform: a wrong token would have the right log-prob.
    """
    model = kind.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(8.0 if "embed" in name or "score" in name else 16.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder)


def _make_some_end(folder: Path, tokenizer: Any) -> None:
    """Turns the EOS token towards where the prompts lead, so that some responses end and some are cut."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = [tokenizer(pair["prompt"])["input_ids"] for pair in PAIRS[:8]]
    with torch.no_grad():
        states = [model.model(torch.tensor([prompt])).last_hidden_state[0] for prompt in prompts]
        towards = torch.cat(states).mean(dim=0)
        model.model.embed_tokens.weight[tokenizer.eos_token_id] = EOS_LOGIT * towards / towards.square().sum()
    model.save_pretrained(folder)


def _make_some_answers_end(folder: Path, tokenizer: Any) -> None:
    """The same of an encoder-decoder, whose answers are any tokens."""
    model = read_t5(folder)
    torch.manual_seed(7)
    with torch.no_grad():
        ids = torch.randint(2, len(tokenizer), (8, 12))
        towards = model.base_model.decoder(
            input_ids=ids, encoder_hidden_states=model.encoder(ids).last_hidden_state
        ).last_hidden_state.mean(dim=(0, 1))
        model.lm_head.weight[tokenizer.eos_token_id] = EOS_LOGIT * towards / towards.square().sum()
    model.save_pretrained(folder)
