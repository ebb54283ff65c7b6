"""The plan's bytes of a rank against what real workers hold: they are asked, and the plan is wrong if they differ.

Each case starts the recipe's worker on every rank, takes two optimizer steps, and asks in the middle of the third,
when gradients are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from distft.config.recipe import Recipe
from distft.launch.starts import role_spec
from distft.planning.costs import gather_calls
from distft.planning.plan import make_plan
from distft.planning.size_sources import sizes_from_folder
from distft.workers.model_worker import ModelWorker
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import Setup, micro_loss, take_steps
from tests.unit.launch.examples import cpu_cluster, recipe
from tests.unit.models.tiny import write_llama

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

TOLERANCE = 0.02
OFFLOADS: dict[str, dict[str, str]] = {
    "": {},
    "optimizer": {"offload_optimizer": "cpu"},
    "parameters": {"offload_parameters": "cpu"},
    "both": {"offload_optimizer": "cpu", "offload_parameters": "cpu"},
}
STAGES_AND_OFFLOADS = [
    (0, ""),
    *((stage, offload) for stage in (1, 2) for offload in ("", "optimizer")),
    *((3, one) for one in OFFLOADS),
]
# The plan's items under the workers' names.
ITEMS = {
    "parameters": ("parameters", "small parameters kept whole"),
    "quantization constants": ("quantization constants",),
    "gradients": ("gradients",),
    "master weights": ("master weights",),
    "float32 gradients": ("float32 gradients",),
    "optimizer states": ("optimizer states",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama of 0.7 M parameters: what DeepSpeed holds for itself whatever the size is small beside it."""
    return write_llama(tmp_path_factory.mktemp("model"), 128, 320, 4)


@pytest.fixture(scope="module")
def groups() -> Iterator[dict[int, Group]]:
    """One rank, and two."""
    with Group(1) as one, Group(2) as two:
        yield {1: one, 2: two}


def measured(rank: int, world: int, run: Recipe, role: str, folder: str) -> dict[str, int]:
    """What a rank of the role's worker reports, with the gradients of a third step."""
    worker = ModelWorker(spec=role_spec(run, role), rank=rank, world_size=world)
    held = worker.setup(("", 0), folder, True)[0].memory
    engine = worker._engine
    if engine.trained:
        ids = torch.arange(3, 15).unsqueeze(0)
        for stepping in (True, True, False):
            engine.backward(engine.forward(input_ids=ids, select=torch.arange(12)).float().sum())
            if stepping:
                engine.step(1e-4)
        held = worker.held()[0]
    return dict(held.bytes)


def assert_plan_is_true(
    groups: Mapping[int, Group],
    folder: str,
    role: str,
    ranks: int,
    dtype: str,
    engine: dict[str, Any],
    **model: Any,
) -> None:
    """``model``: further keys of the model that the recipe names."""
    kind = {"policy": "sft", "reference": "dpo", "reward": "reward"}[role]
    owner = "reward" if role == "reward" else "policy"
    changes = {
        "models": {owner: {"path": folder, "dtype": dtype, "engine": {"persistence_threshold": 0, **engine}, **model}},
        "placement": {role: {"ranks": ranks}},
        "data.max_length": 32,
        "data.max_prompt_length": 16,
    }
    run = recipe(kind, changes)
    items = make_plan(run, cpu_cluster(1, cpus=4)).memory[role].items
    for rank, held in enumerate(groups[ranks].call(measured, run, role, folder)):
        for name, planned_as in ITEMS.items():
            planned = sum(item.bytes for item in items if item.name in planned_as and item.when == "always")
            assert planned or name != "quantization constants" or "quantization" not in model, "nothing is compared"
            cut = sum(item.bytes for item in items if item.name == f"{name} cut by a boundary")
            found = held.get(name, 0)
            assert planned * (1 - TOLERANCE) <= found <= planned * (1 + TOLERANCE) + cut, (rank, name, planned, found)


def test_zero_3_in_bfloat16_on_two_ranks(groups: dict[int, Group], folder: str) -> None:
    assert_plan_is_true(groups, folder, "policy", 2, "bfloat16", {"zero_stage": 3})


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "offload"), STAGES_AND_OFFLOADS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_stage_precision_and_offload(
    groups: dict[int, Group], folder: str, ranks: int, dtype: str, stage: int, offload: str
) -> None:
    assert_plan_is_true(groups, folder, "policy", ranks, dtype, {"zero_stage": stage, **OFFLOADS[offload]})


LORA: dict[str, Any] = {"peft": {"r": 8}}
QLORA: dict[str, Any] = {**LORA, "quantization": {}}
INT8: dict[str, Any] = {**LORA, "quantization": {"method": "int8"}}


@pytest.mark.parametrize("model", [QLORA, INT8], ids=["nf4", "int8"])
def test_adapters_over_quantized_weights_at_zero_3_on_two_ranks(
    groups: dict[int, Group], folder: str, model: dict[str, Any]
) -> None:
    assert_plan_is_true(groups, folder, "policy", 2, "bfloat16", {"zero_stage": 3}, **model)


@pytest.mark.slow
@pytest.mark.parametrize("model", [LORA, QLORA, INT8], ids=["lora", "qlora", "int8"])
@pytest.mark.parametrize(("stage", "offload"), STAGES_AND_OFFLOADS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_adapters_at_every_stage_precision_and_offload(
    groups: dict[int, Group],
    folder: str,
    ranks: int,
    dtype: str,
    stage: int,
    offload: str,
    model: dict[str, Any],
) -> None:
    assert_plan_is_true(groups, folder, "policy", ranks, dtype, {"zero_stage": stage, **OFFLOADS[offload]}, **model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "model"),
    [
        ("reward", LORA),
        ("reward", QLORA),
        ("reference", QLORA),
        ("reference", INT8),
        ("policy", {"peft": {"r": 8}, "quantization": {"method": "fp4"}}),
        ("policy", {"peft": {"r": 4, "target_modules": ["q_proj", "up_proj"]}, "quantization": {"double": False}}),
    ],
)
@pytest.mark.parametrize("stage", [0, 3])
def test_adapters_of_other_roles_and_kinds(
    groups: dict[int, Group], folder: str, role: str, model: dict[str, Any], stage: int
) -> None:
    assert_plan_is_true(groups, folder, role, 2, "bfloat16", {"zero_stage": stage}, **model)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [
    {"method": "ia3"}, {"method": "lora", "dora": True}, {"method": "prompt"},
    {"method": "selective", "train": ["*norm*", "*.0.mlp.*"]}, {"method": "lora", "init": "pissa"},
    {"method": "p_tuning"}, {"method": "prefix"}, {"method": "bottleneck"},
], ids=["ia3", "dora", "prompt", "selective", "pissa", "p_tuning", "prefix", "bottleneck"])  # fmt: skip
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_other_adapters(groups: dict[int, Group], folder: str, adapter: dict[str, Any], stage: int) -> None:
    assert_plan_is_true(groups, folder, "policy", 2, "float32", {"zero_stage": stage}, peft=adapter)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_sparse_differences(groups: dict[int, Group], folder: str, dtype: str, stage: int) -> None:
    diff = {"method": "diff_pruning"}
    assert_plan_is_true(groups, folder, "policy", 2, dtype, {"zero_stage": stage}, peft=diff)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [
    {"name": "lion"}, {"name": "adamw", "state_dtype": "bfloat16"}, {"name": "sgd"}, {"name": "adamw_8bit"},
    {"name": "muon"},
], ids=["lion", "rounded", "sgd", "8bit", "muon"])  # fmt: skip
@pytest.mark.parametrize(("stage", "offload"), STAGES_AND_OFFLOADS)
def test_other_optimizers(
    groups: dict[int, Group], folder: str, optimizer: dict[str, Any], stage: int, offload: str
) -> None:
    engine = {"zero_stage": stage, **OFFLOADS[offload]}
    assert_plan_is_true(groups, folder, "policy", 2, "bfloat16", engine, optimizer=optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_adafactor(groups: dict[int, Group], folder: str, ranks: int) -> None:
    optimizer = {"name": "adafactor"}
    assert_plan_is_true(groups, folder, "policy", ranks, "bfloat16", {"zero_stage": 0}, optimizer=optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["reference", "reward"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_frozen_roles_and_scalar_heads(groups: dict[int, Group], folder: str, ranks: int, role: str) -> None:
    assert_plan_is_true(groups, folder, role, ranks, "float32", {"zero_stage": 3})


@pytest.mark.slow
def test_small_parameters_stay_whole(groups: dict[int, Group], folder: str) -> None:
    assert_plan_is_true(groups, folder, "policy", 2, "bfloat16", {"zero_stage": 3, "persistence_threshold": 5000})


def sent(rank: int, world: int, folder: str, stage: int, bucket: int) -> dict[str, dict[str, tuple[int, float]]]:
    """Collectives of a micro-batch and of a step: how many, and elements of them all as a share of the parameters."""
    backend = import_module("deepspeed.comm.torch").TorchBackend
    counted: dict[str, tuple[int, int]] = {}

    def counting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *tensors: Any, **options: Any) -> Any:
            size = max(tensor.numel() for tensor in (*tensors, *options.values()) if torch.is_tensor(tensor))
            calls, elements = counted.get(name, (0, 0))
            counted[name] = (calls + 1, elements + size)
            return original(self, *tensors, **options)

        return call

    names = ("all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce")
    originals = {name: getattr(backend, name) for name in names}
    engine = Setup(folder, stage, "bfloat16", engine={"reduce_bucket_size": bucket}).build()
    take_steps(engine, rank, [[[[1]], [[2]]]] * 2)
    total = sum(int(getattr(one, "ds_numel", one.numel())) for one in engine.module.parameters())
    found = {}
    try:
        for name, original in originals.items():
            setattr(backend, name, counting(name, original))
        for moment in ("micro-batch", "step"):
            counted.clear()
            if moment == "step":
                engine.step(1e-4)
            else:
                engine.backward(micro_loss(engine, [1], 11))
            found[moment] = {name: (calls, elements / total) for name, (calls, elements) in counted.items()}
    finally:
        for name, original in originals.items():
            setattr(backend, name, original)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "micro_batch", "step"),
    [
        (1, {}, {"all_reduce": 1, "all_gather_into_tensor": 1}),
        (2, {"all_reduce": 1}, {"all_reduce": 0, "all_gather_into_tensor": 1}),
        # Below 1e9 parameters what the forward pass gathered is still there in the backward pass.
        (3, {"all_gather_into_tensor": 1, "reduce_scatter_tensor": 1}, {"all_reduce": 0}),
    ],
)
def test_what_the_estimate_says_is_sent_is_sent(
    groups: dict[int, Group], folder: str, stage: int, micro_batch: dict[str, int], step: dict[str, int]
) -> None:
    """Volumes in units of all parameters; an all-reduce is two rounds of them."""
    bucket = 20_000
    found = groups[2].call(sent, folder, stage, bucket)[0]
    for moment, expected in (("micro-batch", micro_batch), ("step", step)):
        assert {name: round(share, 2) for name, (_, share) in found[moment].items()} == expected
    if stage == 3:
        planned = gather_calls(sizes_from_folder(Path(folder)), bucket)
        calls = {name: number for name, (number, _) in found["micro-batch"].items()}
        # The count decides what the start of collectives costs among thousands of ranks. It need not be exact: what
        # is fetched ahead overshoots its bucket, a bucket of gradients is sent before a tensor would overfill it.
        assert 0.7 * planned <= calls["all_gather_into_tensor"] <= 1.3 * planned
        assert 0.7 * planned <= calls["reduce_scatter_tensor"] <= 1.6 * planned
