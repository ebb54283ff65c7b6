"""Recipes of the layout tests: every role ZeRO-3 in float32, nothing kept whole, steps large enough to be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tests.harness.corpus import Starts

RATE = 1e-3
VALUE_RATE = 2e-3
# Six samples: fewer than two a rank on four ranks. The three of a prompt are above the cap of a micro-batch.
PPO_PROMPTS, PPO_SAMPLES = 2, 3
NEW_TOKENS = 10
TRL_PROMPTS, TRL_SAMPLES = 2, 4
PPO: dict[str, Any] = {"epochs": 2, "minibatches": 2, "kl_coef": 0.1}
ENGINE = {"zero_stage": 3, "persistence_threshold": 0}


def model(path: Path) -> dict[str, Any]:
    """A role's section."""
    return {"path": str(path), "dtype": "float32", "engine": dict(ENGINE)}


def recipe(
    kind: Mapping[str, Any], models: Mapping[str, Any], starts: Starts, *, steps: int, batch: int, cap: int
) -> dict[str, Any]:
    """A recipe over the corpus, without evaluation, checkpoints or W&B. ``cap``: tokens of a micro-batch."""
    return {
        "format": 1,
        "name": "layout",
        "output_dir": "unset",
        "seed": 3,
        "algorithm": dict(kind),
        "models": {role: dict(section) for role, section in models.items()},
        "data": {"train": [{"path": str(starts.rows), "format": "preference"}], "max_length": 96},
        "optimizer": {"learning_rate": RATE},
        "train": {"steps": steps, "global_batch_size": batch, "max_tokens_per_rank": cap},
        "checkpoint": {"every": 1000},
        "tracking": {"wandb": {"mode": "disabled"}, "samples_every": 0, "timeline_steps": 0},
    }


def dpo_recipe(starts: Starts, *, cap: int = 200, **algorithm: Any) -> dict[str, Any]:
    """Two steps of six pairs."""
    policy = {"policy": model(starts.policy)}
    return recipe({"kind": "dpo", **algorithm}, policy, starts, steps=2, batch=6, cap=cap)


# By name: the keys of ``algorithm``.
PREFERENCE_METHODS: dict[str, dict[str, Any]] = {
    "dpo": {"kind": "dpo"},
    "orpo": {"kind": "orpo", "beta": 0.5},
    "simpo": {"kind": "simpo"},
    "cpo": {"kind": "cpo"},
    "kto": {"kind": "kto", "undesirable_weight": 1.2},
}


def preference_recipe(starts: Starts, name: str, *, steps: int = 2) -> dict[str, Any]:
    """Steps of six pairs, or of six answers, with a fifth of the prompts held out."""
    policy = {"policy": model(starts.policy)}
    made = recipe(PREFERENCE_METHODS[name], policy, starts, steps=steps, batch=6, cap=200)
    made["data"]["holdout"] = 0.2
    made["evaluation"] = {"every": max(1, steps // 3), "max_samples": 64}
    return made


def adapted(made: Mapping[str, Any], quantized: str | None = None) -> dict[str, Any]:
    """The recipe with adapters in the policy, and in the value model if it has one; their base quantized or not."""
    models = {role: dict(section) for role, section in made["models"].items()}
    changed = {**made, "models": models}
    for role in ("policy", "value"):
        if role in models:
            models[role] |= {"peft": {"r": 4, "alpha": 8.0}}
            models[role] |= {"quantization": {"method": quantized}} if quantized else {}
    if quantized and "rollout" in made:
        changed["rollout"] = {**made["rollout"], "weights": "sharded"}
    return changed


def ppo_recipe(
    starts: Starts, *, cap: int = 60, samples_per_prompt: int = PPO_SAMPLES, temperature: float = 1.0, **algorithm: Any
) -> dict[str, Any]:
    """Two iterations; the value model has a start and a learning rate of its own. ``cap``: two samples at most."""
    models = {role: model(getattr(starts, role)) for role in ("policy", "reward", "value")}
    models["value"]["optimizer"] = {"learning_rate": VALUE_RATE}
    made = recipe({"kind": "ppo", **PPO, **algorithm}, models, starts, steps=2, batch=PPO_PROMPTS, cap=cap)
    made["data"]["max_prompt_length"] = 40
    made["rollout"] = {
        "engine": "hf",
        "max_new_tokens": NEW_TOKENS,
        "temperature": temperature,
        "samples_per_prompt": samples_per_prompt,
        "max_batch_per_rank": 3,
    }
    return made


def apart_ppo_recipe(starts: Starts) -> dict[str, Any]:
    """The same of an encoder-decoder, scored by a rule; cut answers are worth what the value model says behind them."""
    made = ppo_recipe(replace(starts, policy=starts.apart, value=starts.apart_value), truncated="bootstrap", gamma=0.95)
    made["models"]["reward"] = {"functions": ["tests.harness.rules:letters_e"]}
    return made


# By name: the keys of ``algorithm``.
GROUP_METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"kind": "grpo"},
    "dr-grpo": {"kind": "grpo", "scale_rewards": False, "average": "constant", "constant_length": 10, "kl_coef": 0.0},
    "rloo": {"kind": "rloo"},
    "reinforce-pp": {"kind": "reinforce_pp"},
    "reinforce-pp-baseline": {"kind": "reinforce_pp", "baseline": "group"},
    "dapo": {"kind": "dapo", "overlong_after": 8, "overlong_buffer": 2, "max_refills": 2},
    "gspo": {"kind": "gspo"},
    "cispo": {"kind": "cispo"},
    "online-dpo": {"kind": "online_dpo"},
    "raft": {"kind": "raft"},
}


def group_recipe(
    starts: Starts, name: str, *, steps: int = 2, prompts: int = 4, samples_per_prompt: int = 4
) -> dict[str, Any]:
    """Iterations of a method without a value model, scored by a rule."""
    keys = {"epochs": 2, "minibatches": 2, **GROUP_METHODS[name]}
    made = recipe(keys, {"policy": model(starts.policy)}, starts, steps=steps, batch=prompts, cap=120)
    made["models"]["reward"] = {"functions": ["tests.harness.rules:letters_e"]}
    made["data"]["max_prompt_length"] = 40
    made["rollout"] = {"engine": "hf", "max_new_tokens": NEW_TOKENS, "samples_per_prompt": samples_per_prompt}
    return made


def extended(made: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with new tokens in the policy's vocabulary, which stand in the corpus."""
    policy = made["models"]["policy"] | {"extend_vocabulary": ["Tell me of", " near the sea"]}
    return {**made, "models": made["models"] | {"policy": policy}}


def ppo_choices(starts: Starts) -> dict[str, Any]:
    """A reward model with another tokenizer, whose texts are above the cap in its tokens; the policy held in the first
    iteration, beside all that must not move then; tokens weighed by trainer / generator."""
    made = ppo_recipe(
        replace(starts, reward=starts.byte_reward),
        value_warmup_steps=1, kl_target=0.5, kl_horizon=20, importance_cap=2.0,
    )  # fmt: skip
    made["optimizer"]["warmup_steps"] = PPO["epochs"] * PPO["minibatches"]
    return made


def supervised_recipe(
    starts: Starts, kind: Mapping[str, Any], *, role: str, path: Path, max_length: int = 96
) -> dict[str, Any]:
    """Five steps of four rows or pairs in the order of the file, learning rate falling to 0: what TRL is asked too."""
    made = recipe(kind, {role: model(path)}, starts, steps=5, batch=4, cap=200)
    made["data"] |= {"shuffle": False, "max_length": max_length}
    made["optimizer"]["schedule"] = "linear"
    return made


def sft_recipe(starts: Starts, *, steps: int) -> dict[str, Any]:
    """Steps of eight rows."""
    return recipe({"kind": "sft"}, {"policy": model(starts.policy)}, starts, steps=steps, batch=8, cap=200)


def sampled_recipe(starts: Starts, **algorithm: Any) -> dict[str, Any]:
    """Five iterations of four answers to two prompts, in the order of the file, each learned from twice.

    By the policy whose padding token, which it samples like any other, has an embedding: at one of zeros a norm makes
    a thousand of every rounding.
    """
    made = supervised_recipe(starts, {"epochs": 2, **algorithm}, role="policy", path=starts.other_policy)
    made["models"]["reward"] = {"functions": ["tests.harness.rules:letters_e"]}
    made["train"]["global_batch_size"] = TRL_PROMPTS
    made["data"]["max_prompt_length"] = 40
    made["rollout"] = {"engine": "hf", "max_new_tokens": NEW_TOKENS, "samples_per_prompt": TRL_SAMPLES}
    return made


def labelled_recipe(starts: Starts, **algorithm: Any) -> dict[str, Any]:
    """The same of KTO, on single answers."""
    made = supervised_recipe(starts, {"kind": "kto", **algorithm}, role="policy", path=starts.policy)
    made["data"]["train"] = [{"path": str(starts.labelled)}]
    return made


def reward_end_recipe(starts: Starts, name: str) -> dict[str, Any]:
    """A reward model on rows that end in one of the ways of ``REWARD_ENDS``."""
    start = starts.reward_end(name)
    made = supervised_recipe(starts, {"kind": "reward"}, role="reward", path=start.model)
    made["data"]["train"] = [{"path": str(start.rows), "format": "preference"}]
    return made


def with_shared_rows(made: Mapping[str, Any], shared_by: int) -> dict[str, Any]:
    """The recipe with that many ranks that compute the same rows, in every role; a micro-batch is as long as before."""
    models = {role: {**its, "engine": {**its["engine"], "sequence_parallel": shared_by}}
              for role, its in made["models"].items()}  # fmt: skip
    cap = made["train"]["max_tokens_per_rank"] // shared_by
    return {**made, "models": models, "train": {**made["train"], "max_tokens_per_rank": cap}}


def with_packed_rows(made: Mapping[str, Any], *, packed: bool = True) -> dict[str, Any]:
    """The recipe with the samples of a micro-batch in one row, in every role, or with a row for each."""
    models = {role: {**its, "engine": {**its["engine"], "packed": packed}} for role, its in made["models"].items()}
    return {**made, "models": models}


def with_ranks(made: Mapping[str, Any], num_ranks: int) -> dict[str, Any]:
    """The recipe with that many ranks a role."""
    roles = {"dpo": ("policy", "reference"), "ppo": ("policy", "reference", "reward", "value")}
    placement = {role: {"ranks": num_ranks} for role in roles[made["algorithm"]["kind"]]}
    return {**made, "placement": placement}


def write_recipe(made: Mapping[str, Any], path: Path, output_dir: Path) -> str:
    """The recipe as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**made, "output_dir": str(output_dir)}, sort_keys=False))
    return str(path)
