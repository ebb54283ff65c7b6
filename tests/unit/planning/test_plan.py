"""Whole plans: shipped recipes on this kind of machine, and large ones on paper."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.cluster import Cluster, load_cluster
from distft.config.load import load_recipe, shipped_recipes
from distft.planning.drawing import draw
from distft.planning.machine import Machine
from distft.planning.plan import Plan, make_plan
from tests.harness.work import calls
from tests.unit.launch.examples import (
    LAPTOP,
    LLAMA_8B,
    LLAMA_70B,
    config_folder,
    from_folder,
    gpu_cluster,
    recipe,
)

FOUR = ("policy", "reference", "reward", "value")
# Role -> (ranks, threads) on two cores.
ON_A_LAPTOP: dict[str, dict[str, tuple[int, int]]] = {
    "sft-tiny": {"policy": (2, 1)},
    "reward-tiny": {"reward": (2, 1)},
    "dpo-tiny": {"policy": (2, 1), "reference": (2, 1)},
    "ppo-tiny": dict.fromkeys(FOUR, (2, 1)),
}


def local(**changes: Any) -> Cluster:
    return load_cluster("local").model_copy(update=changes)


def test_answers_that_are_judged_are_said_and_have_room() -> None:
    """A key-value cache for those of a rank at once: 2 x layers x heads x width x rows x tokens x 4 bytes."""
    keys = ["evaluation.metrics=[rougeL]", "evaluation.max_samples=100", "rollout.max_new_tokens=50"]
    plan = make_plan(load_recipe("sft-tiny", keys), local(), machine=LAPTOP)
    assert plan.notes == (
        "an evaluation lets the policy answer 100 prompts with up to 50 tokens each, from its own weights",
    )
    [cache] = [item for item in plan.memory["policy"].items if item.name == "key-value cache"]
    assert cache.bytes == 2 * 3 * 4 * 32 * 50 * (128 + 50) * 4
    assert not [item for item in plan.memory["policy"].items if item.name == "generation twin"]


def test_a_reference_that_is_kept_has_no_group_and_the_policy_all_cores() -> None:
    plan = make_plan(load_recipe("dpo-tiny", ["algorithm.reference=cached"]), local(), machine=LAPTOP)
    assert set(plan.groups) == set(plan.memory) == {"policy"}
    [note] = plan.notes
    assert note.startswith("no group for the reference: ")
    by_group = make_plan(load_recipe("dpo-tiny"), local(), machine=LAPTOP)
    assert plan.memory["policy"] == by_group.memory["policy"]


@pytest.mark.parametrize("name", sorted(ON_A_LAPTOP))
def test_tiny_recipes_on_a_laptop(name: str) -> None:
    plan = make_plan(load_recipe(name), local(), machine=LAPTOP)
    assert {role: (group.num_ranks, group.threads) for role, group in plan.groups.items()} == ON_A_LAPTOP[name]
    assert all(group.cpus_per_rank == 0.24 and group.gpus_per_rank == 0 for group in plan.groups.values())
    assert plan.fits is True
    assert plan.remedies == plan.notes == ()


@pytest.mark.parametrize("name", [name for name, _ in shipped_recipes()])
def test_every_shipped_recipe_can_be_planned_from_nothing(name: str) -> None:
    """With its models from `init:` where they would come from elsewhere; what Ray is asked for is there."""
    given = load_recipe(name)
    sizes = "hidden_size: 64, num_layers: 2, num_heads: 4, vocab_size: 512"
    overrides = []
    for role in ("policy", "reward"):
        if (model := getattr(given.models, role)) is not None and model.path:
            kinds = [kind for kind in ("bert", "t5") if kind in model.path]
            overrides.append(f"models.{role}.init={{architecture: {(*kinds, 'llama')[0]}, {sizes}}}")
            of_a_folder = [key for key in ("label", "chat_template") if getattr(model, key, None)]
            overrides += [f"models.{role}.{key}=null" for key in of_a_folder]
    plan = make_plan(load_recipe(name, overrides), local(), machine=LAPTOP)
    asked = sum(group.cpus_per_rank * group.num_ranks for group in plan.groups.values()) + plan.data_worker.cpus
    assert asked <= LAPTOP.cpus
    assert plan.fits is True
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize("name", ["sft-tiny", "reward-tiny", "dpo-tiny", "ppo-tiny"])
def test_the_tiny_recipes_run_on_one_gpu_awake_together(name: str) -> None:
    machine = Machine(16, 128.0, gpus=1, gpu_memory_gib=79.6, gpu_type="NVIDIA H100 80GB HBM3")
    plan = make_plan(load_recipe(name, []), local(), machine=machine)
    assert plan.fits is True
    assert plan.num_devices == 1
    assert not any(turn.asleep for turn in plan.turns.values())
    assert plan.estimate is not None


def test_too_few_gpus_are_answered_by_what_works_when_pasted() -> None:
    machine = Machine(16, 128.0, gpus=1, gpu_memory_gib=79.6)
    asked = ["placement.policy.ranks=2", "placement.reference.ranks=2"]
    with pytest.raises(EnvironmentFallsShort, match="4 GPUs are asked for") as caught:
        make_plan(load_recipe("dpo-tiny", asked), local(), machine=machine)
    pasted = [word for word in caught.value.hint.split() if "=" in word]
    assert make_plan(load_recipe("dpo-tiny", [*asked, *pasted]), local(), machine=machine).fits is True


def test_golden_ppo_tiny_on_a_laptop() -> None:
    plan = make_plan(load_recipe("ppo-tiny", ["train.global_batch_size=16"]), local(), machine=LAPTOP)
    found = json.loads(plan.model_dump_json(include={"groups", "data_worker", "batch", "format", "phases"}))
    assert found["format"] == 1
    assert found["phases"] == [["policy"], list(FOUR), ["policy", "value"]]
    assert found["groups"]["reward"] == {
        "role": "reward",
        "roles": ["reward"],
        "device_set": "reward",
        "beside": [],
        "resting": [],
        "ranks": [{"rank": 0, "node": 0, "slot": 4}, {"rank": 1, "node": 0, "slot": 5}],
        "cpus_per_rank": 0.24,
        "gpus_per_rank": 0.0,
        "threads": 1,
        "micro_batch_cost": 512,
        "env": {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "DS_ACCELERATOR": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "GLOO_SOCKET_IFNAME": "lo",
        },
    }
    assert found["data_worker"]["cpus"] == 0.04
    batch = found["batch"]
    assert (batch["unit"], batch["units"], batch["ranks"], batch["optimizer_steps"]) == ("prompts", 16, 2, 4)
    assert batch["sequences_per_rank"] <= batch["rows"] * batch["micro_batches"]


def test_every_role_of_slurm_cpu_has_a_rank_on_each_node() -> None:
    plan = make_plan(load_recipe("ppo-tiny"), load_cluster("slurm-cpu"))
    assert {role: group.node_of_rank for role, group in plan.groups.items()} == dict.fromkeys(FOUR, (0, 1))
    assert plan.nodes_used == 2
    assert plan.fits is True


def test_without_a_value_model_there_is_no_group_memory_or_time_of_one() -> None:
    overrides = ["algorithm={kind: grpo}", "models.value=null", "rollout.samples_per_prompt=4"]
    plan = make_plan(load_recipe("llama3-ppo", overrides), load_cluster("slurm-h100"))
    assert {*plan.groups} == {*plan.memory} == {"policy", "reference", "reward"}
    assert plan.estimate is not None
    assert {time.role for phase in plan.estimate.phases for time in phase.roles} == {*plan.groups}
    assert plan.batch.sequences == 4 * plan.batch.units


def test_every_reward_model_is_a_group_of_its_own() -> None:
    further = "models.rewards={safe: {path: some/model, dtype: bfloat16}, brief: {path: other/model}}"
    overrides = [further, "placement.rewards.safe.ranks=1"]
    plan = make_plan(load_recipe("ppo-tiny", overrides), load_cluster("slurm-cpu"))
    assert [*plan.groups] == ["policy", "reference", "reward", "rewards.safe", "rewards.brief", "value"]
    assert plan.groups["rewards.safe"].num_ranks == 1
    assert {*plan.memory} == {*plan.groups}
    plan = make_plan(load_recipe("llama3-ppo", ["models.rewards.safe={path: meta-llama/Llama-3.1-8B-Instruct}"]),
                     load_cluster("slurm-h100"))  # fmt: skip
    assert plan.memory["rewards.safe"].parameters == plan.memory["reward"].parameters > 0
    assert plan.estimate is not None
    assert "rewards.safe" in {time.role for phase in plan.estimate.phases for time in phase.roles}


def test_threads_are_the_cores_over_the_ranks_that_compute_at_once() -> None:
    machine = Machine(cpus=16, memory_gib=64.0)
    threads = {
        kind: {role: group.threads for role, group in make_plan(recipe(kind), local(), machine=machine).groups.items()}
        for kind in ("sft", "dpo", "ppo")
    }
    assert threads["sft"] == {"policy": 8}
    assert threads["dpo"] == {"policy": 8, "reference": 8}  # one after the other
    assert threads["ppo"] == dict.fromkeys(FOUR, 2)  # all eight at once
    turns = recipe("ppo", {"placement": {role: {"with": "policy"} for role in FOUR[1:]}})
    plan = make_plan(turns, local(), machine=machine)
    assert {group.threads for group in plan.groups.values()} == {8}


def test_groups_that_take_turns_share_their_bundles() -> None:
    turns = recipe("dpo", {"placement": {"policy": {"ranks": 2}, "reference": {"with": "policy"}}})
    plan = make_plan(turns, gpu_cluster())
    assert set(plan.device_sets) == {"policy"}
    assert len(plan.device_sets["policy"]) == plan.num_devices == 2
    groups = plan.groups
    assert groups["reference"].device_set == "policy"
    assert groups["reference"].node_of_rank == groups["policy"].node_of_rank == (0, 0)
    bundle = plan.device_sets["policy"][0]
    assert sum(group.cpus_per_rank for group in groups.values()) <= bundle.cpus
    assert {group.gpus_per_rank for group in groups.values()} == {bundle.gpus} == {1.0}
    assert any("awake together: " in note for note in plan.notes)
    assert groups["reference"].beside == ("policy",)


@pytest.mark.parametrize("stage", [2, 3])
def test_layers_for_adapters_that_are_not_there_are_named(stage: int) -> None:
    changes = {"models.policy.peft": {"target_modules": ["qproj"]}, "models.policy.engine": {"zero_stage": stage}}
    with pytest.raises(UserError) as raised:
        make_plan(recipe("dpo", changes), local(), machine=LAPTOP)
    assert str(raised.value) == (
        "models.policy.peft.target_modules: llama has no linear layer qproj\n  did you mean q_proj?"
    )


@pytest.mark.parametrize(("peft", "said"), [
    ({"init": "pissa", "r": 4096},
     "models.policy.peft.r: pissa finds no 4096 parts in a matrix of 32 rows or columns\n  r: 32, or init: kaiming"),
    ({"method": "parallel", "target_modules": ["gate_proj"]},
     "models.policy.peft.target_modules: names a layer that gives 128 numbers, not the 64 of the hidden states that "
     "its block gives\n  name the last layer of each block only"),
])  # fmt: skip
def test_layers_that_an_adapter_does_not_fit_are_named(peft: dict[str, Any], said: str) -> None:
    """Before anything is loaded, the narrowest first."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}
    changes = {"models.policy": {"init": {**sizes, "vocab_size": 300}, "peft": peft}}
    with pytest.raises(UserError) as raised:
        make_plan(recipe("sft", changes), local(), machine=LAPTOP)
    assert str(raised.value) == said


def test_shared_role_is_found_in_its_hosts_group() -> None:
    plan = make_plan(
        recipe("dpo", {"placement": {"reference": {"share": "policy"}}, "models.policy.peft": {"r": 8}}),
        local(),
        machine=LAPTOP,
    )
    assert set(plan.groups) == {"policy"}
    assert plan.group_of("reference").role == "policy"
    assert "parameters" not in {item.name for item in plan.memory["reference"].items}
    with pytest.raises(KeyError):
        plan.group_of("value")


def test_environment_comes_from_cluster_and_machine() -> None:
    cluster = gpu_cluster().model_copy(
        update={
            "network": load_cluster("slurm-h100").network.model_copy(update={"interface": "ib0"}),
            "environment": {"MY_FLAG": "1", "HF_TOKEN": None},
        }
    )
    env = make_plan(recipe("sft"), cluster).groups["policy"].env
    assert env["NCCL_SOCKET_IFNAME"] == env["GLOO_SOCKET_IFNAME"] == "ib0"
    assert env["NCCL_IB_TIMEOUT"] == "22"
    assert env["MY_FLAG"] == "1"
    assert not {"DS_ACCELERATOR", "HF_TOKEN", "CUDA_VISIBLE_DEVICES"} & set(env)
    machine = Machine(cpus=2, memory_gib=16.0, environment={"HF_HUB_OFFLINE": "1"})
    assert make_plan(recipe("sft"), local(), machine=machine).groups["policy"].env["HF_HUB_OFFLINE"] == "1"


def test_auto_of_a_ray_cluster_comes_from_the_running_one() -> None:
    ray = load_cluster("ray-existing")
    with pytest.raises(EnvironmentFallsShort, match="nodes is `auto`") as caught:
        make_plan(recipe("dpo"), ray)
    assert "RAY_ADDRESS" in caught.value.hint
    plan = make_plan(recipe("dpo"), ray, machine=Machine(nodes=2, cpus=4, memory_gib=16.0))
    assert {group.node_of_rank for group in plan.groups.values()} == {(0, 1)}


def test_ranks_that_share_rows_are_said_and_hold_less(tmp_path: Path) -> None:
    shared = "models.policy.engine.sequence_parallel=2"
    plan = make_plan(load_recipe("sft-tiny", [shared]), local(), machine=LAPTOP)
    assert "on each of 1 group of 2 ranks that share them" in draw(plan)
    assert plan.notes == ()
    with pytest.raises(UserError, match=r"3 ranks share rows, and the policy has 2\n.*placement.policy.ranks=3"):
        make_plan(load_recipe("sft-tiny", ["models.policy.engine.sequence_parallel=3"]), local(), machine=LAPTOP)
    # A quarter of the tokens a rank: rows as long as before, and activations a quarter of theirs.
    keys = {"data.max_length": 32_768, "train.max_tokens_per_rank": 32_768}
    quarter = {"train.max_tokens_per_rank": 8_192, "models.policy.engine.sequence_parallel": 4}
    folder = config_folder(tmp_path / "m", LLAMA_8B)
    one, four = (from_folder("sft", folder, keys | more) for more in ({}, quarter))
    whole, part = (make_plan(made, gpu_cluster(nodes=2), machine=None) for made in (one, four))
    assert part.groups["policy"].num_ranks % 4 == 0
    activations = [
        next(item.bytes for item in plan.memory["policy"].items if item.name == "activations") for plan in (whole, part)
    ]
    assert activations[0] == pytest.approx(4 * activations[1], rel=0.01)


def test_packed_rows_are_said_and_what_keeps_samples_apart_is_counted() -> None:
    keys = ["data.max_length=128", "train.max_tokens_per_rank=512", "models.policy.engine.packed="]
    rows, packed, eager = (
        make_plan(load_recipe("sft-tiny", [*keys[:2], keys[2] + said, *more]), local(), machine=LAPTOP)
        for said, more in (("false", []), ("true", []), ("true", ["models.policy.attention=eager"]))
    )
    said = "of up to 4 sequences of that length, or more of shorter ones, packed in one row"
    assert [said in draw(plan) for plan in (rows, packed, eager)] == [False, True, True]
    found, wanted = ({item.name: item.bytes for item in plan.memory["policy"].items} for plan in (packed, rows))
    assert wanted["activations"] < found["activations"] < 1.1 * wanted["activations"]
    other = {name for name, size in found.items() if size != wanted[name]}
    assert other == {"activations", "fragmentation allowance"}
    masks = [item for item in eager.memory["policy"].items if item.name == "mask of a packed row"]
    assert [mask.bytes for mask in masks] == [512**2 * (1 + 4)]


def test_idle_ranks_are_noted() -> None:
    changes = {"train.global_batch_size": 3, "placement": {"policy": {"ranks": 8}}}
    plan = make_plan(recipe("sft", changes), gpu_cluster())
    assert "5 of 8 ranks have nothing to do: a step has 3 sequences" in plan.notes
    keys = ["train.global_batch_size=2", "rollout.samples_per_prompt=2", "algorithm.minibatches=1",
            *(f"placement.{role}.ranks=4" for role in ("policy", "reference"))]  # fmt: skip
    paired = make_plan(load_recipe("online-dpo-tiny", keys), local(), machine=Machine(nodes=1, cpus=8, memory_gib=64.0))
    assert not any("nothing to do" in note for note in paired.notes), "each of four answers is sampled and read alone"


def test_unknown_sizes_are_said_and_leave_the_verdict_open() -> None:
    plan = make_plan(recipe("sft", {"models": {"policy": {"path": "some/model-not-here"}}}), local(), machine=LAPTOP)
    assert plan.fits is None
    assert plan.memory["policy"].items == ()
    assert "some/model-not-here" in plan.notes[0]


def test_an_8b_model_does_not_fit_a_laptop_and_nothing_is_raised(tmp_path: Path) -> None:
    plan = make_plan(from_folder("dpo", config_folder(tmp_path, LLAMA_8B)), local(), machine=LAPTOP)
    assert plan.fits is False
    (load,) = plan.loads
    assert load.bytes > load.capacity == 16 * 2**30


def test_colocated_where_separate_does_not_fit(tmp_path: Path) -> None:
    """Two trained 8B models and two frozen ones do not fit apart; without rates the plainest is taken."""
    small = from_folder("ppo", config_folder(tmp_path, LLAMA_8B), {"train.global_batch_size": 256})
    one = make_plan(small, gpu_cluster(1, memory_gib=60))
    four = make_plan(small, gpu_cluster(4, bandwidth_gbps=None))
    assert {group.device_set for group in one.groups.values()} <= {"policy", "value"}
    assert one.groups["reference"].device_set == "policy"
    assert {role: group.device_set for role, group in four.groups.items()} == {role: role for role in FOUR}
    assert (four.estimate, four.estimate_unknown) == (None, "the cluster file does not say network.bandwidth_gbps")
    assert one.fits is four.fits is True


@pytest.mark.parametrize("config", [LLAMA_8B, LLAMA_70B], ids=["8B", "70B"])
@pytest.mark.parametrize("kind", ["ppo", "dpo"])
def test_a_thousand_nodes_are_planned_on_paper(config: dict[str, Any], kind: str, tmp_path: Path) -> None:
    changes = {"rollout.weights": "sharded", "train.global_batch_size": 8192}
    big = from_folder(kind, config_folder(tmp_path, config), changes)
    work = {}
    for nodes in (1, 16, 1024):
        plan = make_plan(big, gpu_cluster(nodes))
        assert plan.fits is (nodes > 1 or config is LLAMA_8B), nodes
        work[nodes] = calls(lambda nodes=nodes: make_plan(big, gpu_cluster(nodes)))
    print(work)
    assert work[1024] < 10 * work[16], "64 times the nodes; some hundred thousand calls are a third of a second"
    assert plan.nodes_used >= 64
    assert plan.estimate is not None
    assert plan.estimate.seconds > 0


def test_given_numbers_are_kept_whatever_would_be_quicker(tmp_path: Path) -> None:
    placement = {"policy": {"ranks": 4}, "reference": {"ranks": 2}}
    given = from_folder("dpo", config_folder(tmp_path, LLAMA_8B), {"placement": placement})
    plan = make_plan(given, gpu_cluster(4))
    assert {role: group.num_ranks for role, group in plan.groups.items()} == {"policy": 4, "reference": 2}
    assert plan.estimate is not None


def test_what_is_nearly_full_is_tight(tmp_path: Path) -> None:
    placement = {"policy": {"ranks": 8}, "reference": {"with": "policy"}}
    given = from_folder("dpo", config_folder(tmp_path, LLAMA_8B), {"placement": placement})
    needed = (
        next(load.bytes for load in make_plan(given, gpu_cluster(memory_gib=1)).loads if load.kind == "gpu") / 2**30
    )
    assert make_plan(given, gpu_cluster(memory_gib=needed * 1.05)).tight == ("GPUs of policy, reference: 95% full",)
    assert make_plan(given, gpu_cluster(memory_gib=needed * 1.2)).tight == ()
    assert make_plan(given, gpu_cluster(memory_gib=needed * 0.99)).fits is False


def test_planning_imports_nothing_heavy(root: Path) -> None:
    program = """
import sys
from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.planning.drawing import draw
from distft.launch.machine import this_machine
from distft.planning.plan import make_plan
from distft.launch.preflight.checks import preflight
recipe = load_recipe("ppo-tiny", ["output_dir=never-made"])
plan = make_plan(recipe, load_cluster("slurm-cpu"))
assert draw(plan) and all("random weights" in warning for warning in preflight(recipe, plan))
heavy = {"torch", "ray", "transformers", "deepspeed", "datasets", "wandb"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
