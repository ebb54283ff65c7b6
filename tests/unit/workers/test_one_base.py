"""The models of PPO over one frozen base: policy and value model learn as each does alone, the reward model scores as
its own weights do, and the base stays what it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distft.common.errors import UserError
from distft.config.recipe import Recipe
from distft.launch.starts import role_spec
from distft.models.adapters.adapt import without_adapters
from distft.workers.model_worker import ModelWorker
from tests.unit.engine.group import Group
from tests.unit.launch.examples import recipe
from tests.unit.models.tiny import write_llama

IDS = torch.arange(3, 15).unsqueeze(0)
TOLD: dict[str, Any] = {"input_ids": IDS, "select": torch.arange(12)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(1)
    return write_llama(tmp_path_factory.mktemp("model"), 64, 128, 4)


@pytest.fixture(scope="module")
def group() -> Any:
    with Group(2) as made:
        yield made


@pytest.fixture(scope="module")
def finished(group: Group, folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward model that was trained with adapters over the policy's start."""
    target = tmp_path_factory.mktemp("reward") / "final"
    model = {"path": folder, "dtype": "float32", "peft": {"r": 4}}
    run = recipe("reward", {"models": {"reward": model}, "data.max_length": 32, "data.max_prompt_length": 16})
    group.call(train_and_export, run, folder, str(target))
    return str(target)


def worker(run: Recipe, role: str, rank: int, world: int, path: str, host: ModelWorker | None = None) -> ModelWorker:
    """One that is set up; where it is trained it draws its adapters' dropout."""
    spec = role_spec(run, role)
    if spec.optimizer is not None and spec.model.peft is not None:
        # which PPO has not: to see whose random numbers they are
        peft = spec.model.peft.model_copy(update={"dropout": 0.2})
        spec = replace(spec, dropout=True, model=spec.model.model_copy(update={"peft": peft}))
    made = ModelWorker(spec=spec, rank=rank, world_size=world, host=host)
    made.setup(("", 0), path, new_head=role == "value")
    return made


def train_and_export(rank: int, world: int, run: Recipe, path: str, target: str) -> None:
    made = ModelWorker(spec=role_spec(run, "reward"), rank=rank, world_size=world)
    made.setup(("", 0), path, new_head=True)
    for _ in range(3):
        learn(made, rate=1e-1, towards=3.0)  # of scores near zero rounding would be a large part
    made.export(target)


def learn(one: ModelWorker, rate: float = 1e-2, towards: float = 0.0) -> None:
    """A step of it, on something else on every rank."""
    engine = one._engine
    engine.train(mode=True)
    told = TOLD | {"input_ids": (IDS + one.rank) % 20}
    for _ in range(2):
        engine.backward((engine.forward(**told).float() - towards).square().mean())
    engine.step(rate)


def learned(one: ModelWorker) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in one._engine.full_tensors(trained_only=True)}


def said(one: ModelWorker) -> torch.Tensor:
    one._engine.train(mode=False)
    with torch.no_grad():
        return one._engine.forward(**TOLD).clone()


def said_by_base(one: ModelWorker) -> torch.Tensor:
    with without_adapters(one._engine.module):
        return said(one)


def together_and_alone(rank: int, world: int, run: Recipe, folder: str, finished: str) -> dict[str, Any]:
    """What each has learned over one base and by itself, what base and reward model say in between, and whose tensors
    are whose."""
    policy = worker(run, "policy", rank, world, folder)
    policy.end_turn()
    value = worker(run, "value", rank, world, folder, host=policy)
    value.end_turn()
    reward = worker(run, "reward", rank, world, finished, host=policy)
    reward.end_turn()
    untouched, of_base, scores, turns = None, [], [], 3
    for _ in range(turns):
        policy.take_turn()
        untouched = said_by_base(policy) if untouched is None else untouched
        learn(policy)
        of_base.append(said_by_base(policy))
        policy.end_turn()
        reward.take_turn()
        scores.append(said(reward))
        reward.end_turn()
        value.take_turn()
        learn(value)
        value.end_turn()
    ours = {id(p) for p in policy._engine.module.parameters()}
    own = {
        "value": [p for p in value._engine.module.parameters() if p.requires_grad],
        "reward": [p for name, p in reward._engine.module.named_parameters() if "lora" in name or "score" in name],
    }
    lent = {role: {id(p) for p in one._engine.module.parameters()} - {id(p) for p in own[role]}
            for role, one in (("value", value), ("reward", reward))}  # fmt: skip
    found = {"policy": learned(policy), "value": learned(value)}
    bytes_of = {role: one.held()[0].bytes for role, one in (("policy", policy), ("value", value), ("reward", reward))}
    alone, apart = {}, []
    for role in found:
        by_itself = worker(run, role, rank, world, folder)
        if role == "policy":
            said_by_base(by_itself)
        for _ in range(turns):
            learn(by_itself)
        alone[role] = learned(by_itself)
        apart.append(sum(by_itself.held()[0].bytes.values()))
    merged = worker(run, "reward", rank, world, finished)
    apart += 2 * [sum(merged.held()[0].bytes.values())]  # of a reference too: as large but for the head
    return {
        "equal": {role: [torch.equal(found[role][name], alone[role][name]) for name in alone[role]] for role in found},
        "base": [torch.equal(untouched, one) for one in of_base],
        "same": all(ids and ids <= ours for ids in lent.values()),
        "bytes": bytes_of,
        "share": sum(sum(held.values()) for held in bytes_of.values()) / sum(apart),
        "scores": [torch.equal(scores[0], one) for one in scores],
        "off": float((scores[0].float() - said(merged).float()).abs().max() / scores[0].float().abs().max()),
        "spread": float(scores[0].float().std()),
    }


def over_one_base(folder: str, finished: str, stage: int, dtype: str = "float32", r: int = 8) -> Recipe:
    """PPO whose four roles lie over the model in ``folder``, with the reward model ``finished``."""
    model = {"path": folder, "dtype": dtype, "peft": {"r": r},
             "engine": {"zero_stage": stage, "persistence_threshold": 100}}  # fmt: skip
    lodgers: dict[str, Any] = {role: {"share": "policy"} for role in ("value", "reward", "reference")}
    return recipe("ppo", {
        "models": {"policy": model, "reward": {"path": finished}, "value": {}},
        "placement": {"policy": {"ranks": 2}, **lodgers},
        "data.max_length": 32, "data.max_prompt_length": 16, "rollout.max_new_tokens": 16,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [
        (2, "bfloat16"),
        (3, "float32"),
        pytest.param(0, "float32", marks=pytest.mark.slow),
        pytest.param(0, "bfloat16", marks=pytest.mark.slow),
        pytest.param(2, "float32", marks=pytest.mark.slow),
        pytest.param(3, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_each_learns_over_one_base_as_it_does_alone(
    group: Group, folder: str, finished: str, stage: int, dtype: str
) -> None:
    for found in group.call(together_and_alone, over_one_base(folder, finished, stage, dtype), folder, finished):
        assert all(found["equal"]["policy"])
        assert all(found["equal"]["value"])
        assert found["base"] == [True] * 3
        assert found["scores"] == [True] * 3
        assert found["same"]
        assert found["off"] < (1e-5 if dtype == "float32" else 0.03), found["off"]
        assert found["spread"] > 0.01


def refused(rank: int, world: int, run: Recipe, folder: str, of_reward: str) -> str:
    """What a reward model over the base of a policy that starts from ``folder`` is told."""
    policy = worker(run, "policy", rank, world, folder)
    policy.end_turn()
    with pytest.raises(UserError) as told:
        worker(run, "reward", rank, world, of_reward, host=policy)
    return str(told.value)


def test_a_reward_model_over_another_base_is_refused(group: Group, finished: str, tmp_path: Path) -> None:
    """On all ranks alike, and by the first weight that is another."""
    narrow = write_llama(tmp_path / "narrow", 32, 64, 2)
    for told in group.call(refused, over_one_base(narrow, finished, 3), narrow, finished):
        assert "models.reward.path: its model.embed_tokens.weight" in told
        assert f"is not in {narrow}, the policy's start" in told
