"""The engine against plain AdamW: every stage, any split, any precision; shards; faults; checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from distft.config.adapters.lora import Lora
from distft.config.optimizers.sgd import Sgd
from tests.unit.engine import rank_side
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import RATE, VOCABULARY, Setup

# [step][rank][micro-batch] = sample numbers; an empty micro-batch is dummy work.
STEPS = [
    [[[1, 2], [3]], [[4], []]],
    [[[5]], [[6]]],
    [[[7], [8], [9]], [[10], [], []]],
    [[[1], [], [2], [3], [4]], [[5, 6], [7], [8], [9], []]],
]
STAGES = [0, 1, 2, 3]
DECAY = 0.1


def slow(*values: Any) -> Any:
    """A case between those of the default run, of which each kind stays there."""
    return pytest.param(*values, marks=pytest.mark.slow)


FIRST_AND_LAST = [0, slow(1), slow(2), 3]
ON = [(0, 1), slow(1, 1), slow(2, 1), (3, 1), *((stage, 2) for stage in STAGES)]  # stage and number of ranks


def steps_for(world_size: int) -> list[Any]:
    return STEPS if world_size == 2 else [[[micro for rank in step for micro in rank]] for step in STEPS]


def plain(folder: str, dtype: torch.dtype) -> Any:
    """The model as transformers loads it, without dropout; its padding token's row learns as any other's."""
    module: Any = AutoModelForCausalLM.from_pretrained(folder, attention_dropout=0.0, dtype=dtype)
    module.get_input_embeddings().padding_idx = None
    return module.train()


def _adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=RATE, foreach=False, fused=False)


def plain_steps(
    folder: str,
    dtype: torch.dtype = torch.float32,
    first: int = 0,
    rule: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] = _adamw,
) -> tuple[list[float], dict[str, np.ndarray]]:
    """The same steps from ``first`` on in one process, whole batches at once; weights start from ``dtype``."""
    torch.set_num_threads(1)
    module = plain(folder, dtype).float()
    groups = [
        {"params": [p for p in module.parameters() if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in module.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = rule(groups)
    norms = []
    for step in STEPS[first:]:
        ids = torch.cat([rank_side.sequence(sample) for rank in step for micro in rank for sample in micro])
        logits = module(input_ids=ids).logits[:, :-1]
        F.cross_entropy(logits.reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1)).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)))
        optimizer.step()
        optimizer.zero_grad()
    return norms, {f"model.{name}": parameter.detach().numpy() for name, parameter in module.named_parameters()}


def spread(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> tuple[float, float]:
    """The mean and the largest difference over all weights."""
    assert set(found) == set(wanted)
    differences = np.concatenate([np.abs(found[name] - wanted[name]).ravel() for name in wanted])
    return float(differences.mean()), float(differences.max())


@pytest.mark.parametrize(("stage", "world_size"), ON)
def test_float32_is_plain_adamw(groups: dict[int, Group], folder: str, stage: int, world_size: int) -> None:
    norms, wanted = plain_steps(folder)
    assert min(norms) < 1.0 < max(norms) or min(norms) > 1.0  # clipping is at work
    for answer in groups[world_size].call(rank_side.train, Setup(folder, stage), steps_for(world_size)):
        assert answer["norms"] == pytest.approx(norms, rel=1e-5)
        mean, most = spread(answer["weights"], wanted)
        assert mean < 1e-6
        assert most < 0.01 * RATE  # where a gradient is nearly 0 Adam magnifies its rounding


@pytest.mark.parametrize(("dtype", "world_size"), [
    ("bfloat16", 1), ("bfloat16", 2), slow("float16", 1), ("float16", 2),
])  # fmt: skip
def test_low_precision_is_plain_adamw_within_its_precision(
    groups: dict[int, Group], folder: str, dtype: str, world_size: int
) -> None:
    group = groups[world_size]
    group.call(rank_side.allow_float16)
    # The first step's gradients times float16's first loss scale are infinite: no step is taken.
    first = 1 if dtype == "float16" else 0
    norms, wanted = plain_steps(folder, getattr(torch, dtype), first)
    found = {}
    for stage in STAGES:
        answer = group.call(rank_side.train, Setup(folder, stage, dtype), steps_for(world_size)[first:])[0]
        assert answer["norms"] == pytest.approx(norms, rel=0.03)
        mean, _ = spread(answer["weights"], wanted)
        assert mean < 0.3 * RATE  # DeepSpeed's own stage 0 is off by a whole step
        found[stage] = answer["weights"]
    # In one shard nothing is sharded: the same arithmetic. At stage 0 autograd adds the two gradients of a tied
    # embedding in float32, at the others in the model's own precision.
    if world_size == 1:
        assert max(spread(found[1], found[stage])[0] for stage in (2, 3)) < 1e-6
        assert spread(found[0], found[1])[0] < 0.01 * RATE


def test_stage_0_and_a_single_shard_compute_alike(groups: dict[int, Group], untied: str) -> None:
    """Clipping too: DeepSpeed's stage 0 took the norm of gradients rounded to bfloat16.

    Two steps: in the third, the last digit of a norm's sum puts ten weights of 7,760 on the neighbouring bfloat16.
    """
    zero, one = (
        groups[1].call(rank_side.train, Setup(untied, stage, "bfloat16"), steps_for(1)[:2])[0] for stage in (0, 1)
    )
    assert zero["norms"] == pytest.approx(one["norms"], rel=1e-6)
    assert spread(zero["weights"], one["weights"])[0] < 1e-6


def summed_in_float64(folder: str, samples: list[int], dtype: str) -> float:
    """The norm of the mean gradient of single samples in ``dtype``, which nothing rounds on its way into the sum."""
    torch.set_num_threads(1)
    module = plain(folder, getattr(torch, dtype))
    total = torch.zeros(sum(parameter.numel() for parameter in module.parameters()), dtype=torch.float64)
    for sample in samples:
        ids = rank_side.sequence(sample)
        logits = module(input_ids=ids).logits[0, :-1].float()
        (F.cross_entropy(logits, ids[0, 1:]) / len(samples)).backward()
        total += torch.cat([parameter.grad.double().ravel() for parameter in module.parameters()])
        module.zero_grad()
    return float(total.norm())


OFFLOADED = {"offload_optimizer": "cpu"}
ACCUMULATING = [
    *((stage, {}, "bfloat16", 2) for stage in (0, 3)),
    *(slow(stage, {}, "bfloat16", 2) for stage in (1, 2)),
    *(slow(stage, {}, "bfloat16", 1) for stage in STAGES),
    *(slow(stage, OFFLOADED, "bfloat16", 2) for stage in (1, 2, 3)),
    slow(3, OFFLOADED | {"offload_parameters": "cpu"}, "bfloat16", 1),
    *(slow(stage, {}, "float16", 2) for stage in STAGES),
]


@pytest.mark.parametrize(("stage", "engine", "dtype", "world_size"), ACCUMULATING)
def test_many_micro_batches_are_added_up_in_float32(
    groups: dict[int, Group], folder: str, stage: int, engine: dict[str, str], dtype: str, world_size: int
) -> None:
    """The same two samples 256 times: summed in bfloat16 that came out 9 % short."""
    group, setup = groups[world_size], Setup(folder, stage, dtype, engine=engine)
    group.call(rank_side.allow_float16)
    one, many = ([[[1], [2]] * (count // world_size)] * world_size for count in (2, 256))
    steps = [many] if dtype == "bfloat16" else [one] * 20 + [many]  # first the loss scale comes down
    for answer in group.call(rank_side.train, setup, steps, rate=0.0):
        assert answer["norms"][-1] == pytest.approx(summed_in_float64(folder, [1, 2], dtype), rel=2e-3)


@pytest.mark.parametrize("stage", [0, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_adapters_are_added_up_in_float32_too(groups: dict[int, Group], folder: str, stage: int) -> None:
    setup = Setup(folder, stage, "bfloat16", adapter=Lora(r=4))
    many, one = ([[[[1]] * count] * 2] for count in (256, 1))
    norms = [groups[2].call(rank_side.train, setup, steps)[0]["norms"][0] for steps in (many, one)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.parametrize(("stage", "dtype", "world_size"), [
    (0, "float32", 1), (0, "bfloat16", 2), (2, "float32", 2), (3, "float32", 2), (3, "bfloat16", 2),
    slow(0, "float32", 2), slow(1, "float32", 2), slow(1, "bfloat16", 2), slow(2, "bfloat16", 2),
])  # fmt: skip
def test_a_nan_on_one_rank_leaves_no_trace(
    groups: dict[int, Group], folder: str, stage: int, dtype: str, world_size: int
) -> None:
    group, setup, steps = groups[world_size], Setup(folder, stage, dtype), steps_for(world_size)
    undisturbed = group.call(rank_side.train, setup, steps)[0]["weights"]
    for answer in group.call(rank_side.train_past_nan, setup, steps):
        assert answer["raised"]
        assert spread(answer["after"], answer["before"]) == (0.0, 0.0)
        assert spread(answer["weights"], undisturbed) == (0.0, 0.0)


@pytest.mark.parametrize(("stage", "dtype", "world_size", "engine"), [
    (0, "float32", 1, {}), (0, "bfloat16", 2, {}), (2, "float32", 2, {}), (3, "float32", 2, {}),
    slow(3, "bfloat16", 2, {}), slow(0, "float32", 2, {}), slow(1, "float32", 2, {}), slow(1, "bfloat16", 2, {}),
    slow(2, "bfloat16", 2, {}), slow(0, "float16", 2, {}), slow(1, "float16", 2, {}), slow(2, "float16", 2, {}),
    slow(3, "float16", 2, {}), slow(2, "float32", 2, {"offload_optimizer": "cpu"}),
    slow(3, "float32", 2, {"offload_optimizer": "cpu"}), slow(3, "float16", 2, {"offload_optimizer": "cpu"}),
])  # fmt: skip
def test_gradients_that_are_thrown_away_leave_no_trace(
    groups: dict[int, Group], folder: str, stage: int, dtype: str, world_size: int, engine: dict[str, Any]
) -> None:
    """Optimizer's states and the loss scale neither: with them the steps that follow are those of who had none."""
    group, setup, steps = groups[world_size], Setup(folder, stage, dtype, engine=engine), steps_for(world_size)
    if dtype == "float16":
        group.call(rank_side.allow_float16)
    undisturbed = group.call(rank_side.train, setup, steps)[0]["weights"]
    for answer in group.call(rank_side.train_past_dropped, setup, steps):
        assert answer["same_facts"]
        assert spread(answer["after"], answer["before"]) == (0.0, 0.0)
        assert spread(answer["weights"], undisturbed) == (0.0, 0.0)


@pytest.mark.parametrize(("stage", "world_size"), ON)
def test_each_rank_holds_its_share(groups: dict[int, Group], folder: str, stage: int, world_size: int) -> None:
    numel = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())
    share = numel // world_size
    for found in groups[world_size].call(rank_side.held_between, Setup(folder, stage)):
        for moment in ("loaded", "evaluated", "backward", "stepped"):
            assert found[moment].parameters == (share if stage == 3 else numel), moment
            assert found[moment].gradients == (share if stage >= 2 else numel), moment
        assert found["whole_gradients"] == (0 if stage >= 2 else numel)
        assert found["loaded"].optimizer == 0
        assert found["stepped"].optimizer == 2 * (share if stage >= 1 else numel)


@pytest.mark.parametrize("stage", [0, 3])
def test_a_frozen_role_holds_parameters_only(groups: dict[int, Group], untied: str, stage: int) -> None:
    numel = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(untied).parameters())
    for found in groups[2].call(rank_side.held_between, Setup(untied, stage, optimizer=None)):
        for held in found.values():
            assert held.parameters == (numel // 2 if stage == 3 else numel)
            assert (held.gradients, held.optimizer) == (0, 0)


def test_parameters_below_the_threshold_are_counted_as_held(groups: dict[int, Group], folder: str) -> None:
    numel = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())
    found = groups[2].call(rank_side.held_between, Setup(folder, threshold=10**6))[0]
    assert found["stepped"].parameters == numel + numel // 2  # DeepSpeed gathers them after a step, and they stay


@pytest.mark.parametrize(("stage", "dtype"), [
    (0, "float32"), (0, "float16"), (2, "bfloat16"), (3, "float32"), (3, "bfloat16"),
    slow(0, "bfloat16"), slow(2, "float32"),
])  # fmt: skip
def test_going_on_from_a_checkpoint_is_the_same_run(
    groups: dict[int, Group], folder: str, tmp_path: Path, stage: int, dtype: str
) -> None:
    groups[2].call(rank_side.allow_float16)
    setup = Setup(folder, stage, dtype, dropout=True)
    for answer in groups[2].call(rank_side.save_and_go_on, setup, str(tmp_path), STEPS[:2], STEPS[2:]):
        norms, weights = answer["norms"], answer["weights"]
        assert norms[0] == norms[1]
        assert spread(weights[0], weights[1]) == (0.0, 0.0)
    files = ["states_0.safetensors", "states_1.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["later", *files]
    for name in files:
        assert (tmp_path / "later" / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("stage", FIRST_AND_LAST)
def test_a_missing_checkpoint_raises(groups: dict[int, Group], folder: str, tmp_path: Path, stage: int) -> None:
    for place in (tmp_path, tmp_path / "none"):
        answers = groups[2].call(rank_side.load_missing, Setup(folder, stage), str(place))
        assert answers[0] == f"no engine state in {place}"
        assert answers[0] in answers[1]


@pytest.mark.parametrize("stage", [2, 3])
def test_recomputing_activations_changes_no_gradient(groups: dict[int, Group], folder: str, stage: int) -> None:
    usual, recomputing = Setup(folder, stage), Setup(folder, stage, checkpointing=True)
    assert groups[2].call(rank_side.count_recomputations, usual) == [2, 2]
    assert groups[2].call(rank_side.count_recomputations, recomputing) == [4, 4]
    one = groups[2].call(rank_side.train, usual, STEPS)[0]
    two = groups[2].call(rank_side.train, recomputing, STEPS)[0]
    assert one["norms"] == pytest.approx(two["norms"], rel=1e-6)
    assert spread(one["weights"], two["weights"])[0] < 1e-7


@pytest.mark.parametrize(("stage", "offload"), [
    (1, {"offload_optimizer": "cpu"}),
    slow(2, {"offload_optimizer": "cpu"}),
    slow(3, {"offload_optimizer": "cpu"}),
    (3, {"offload_parameters": "cpu"}),
    (3, {"offload_optimizer": "cpu", "offload_parameters": "cpu"}),
])  # fmt: skip
def test_offload_changes_no_number(groups: dict[int, Group], folder: str, stage: int, offload: dict[str, str]) -> None:
    usual = groups[2].call(rank_side.train, Setup(folder, stage), STEPS)[0]
    offloaded = groups[2].call(rank_side.train, Setup(folder, stage, engine=offload), STEPS)[0]
    assert usual["norms"] == pytest.approx(offloaded["norms"], rel=1e-6)
    assert spread(usual["weights"], offloaded["weights"])[0] < 1e-7


@pytest.mark.parametrize(("stage", "dtype"), [
    (0, "float32"), (2, "bfloat16"), (3, "float32"), (3, "bfloat16"),
    slow(0, "bfloat16"), slow(1, "float32"), slow(1, "bfloat16"), slow(2, "float32"),
])  # fmt: skip
def test_a_sleep_leaves_nothing_and_changes_nothing(
    groups: dict[int, Group], folder: str, stage: int, dtype: str
) -> None:
    slept = groups[2].call(rank_side.sleep_and_wake, Setup(folder, stage, dtype), STEPS)[0]
    awake = groups[2].call(rank_side.train, Setup(folder, stage, dtype), STEPS)[0]["weights"]
    assert spread(slept["weights"], awake) == (0.0, 0.0)
    held, asleep, again = slept["bytes"]
    assert asleep == 0
    assert again == held
    # Gradients stay behind; buffers and what shares a storage with them are not in any kind.
    needed = sum(size for kind, size in slept["kinds"].items() if kind not in ("gradients", "float32 gradients"))
    out, back, states, rest, weights_back, again, all_back = slept["moved"]
    assert all(needed <= moved <= 1.05 * needed for moved in (out, back))
    for_steps = sum(slept["kinds"].get(kind, 0) for kind in ("master weights", "optimizer states"))
    assert for_steps <= states <= 1.05 * for_steps, "the part that only a step needs"
    assert rest == weights_back == back - states, "states that are out already do not go again"
    if stage < 3:  # where a pass leaves what it has gathered
        assert (again, all_back) == (rest, back)
    assert not any(slept["without_states"].get(kind) for kind in ("master weights", "optimizer states", "gradients"))


@pytest.mark.parametrize("stage", [0, 3])
def test_a_frozen_base_goes_out_once(groups: dict[int, Group], folder: str, stage: int) -> None:
    setup = Setup(folder, stage, "bfloat16", adapter=Lora(r=2))
    slept = groups[2].call(rank_side.sleep_and_wake, setup, STEPS)[0]
    awake = groups[2].call(rank_side.train, setup, STEPS)[0]["weights"]
    assert spread(slept["weights"], awake) == (0.0, 0.0)
    first, back, states, rest, *_ = slept["moved"]
    again = states + rest
    assert first == back
    assert again <= back - 0.8 * slept["kinds"]["parameters"]


@pytest.mark.parametrize("stage", FIRST_AND_LAST)
def test_sgd_is_plain_sgd(groups: dict[int, Group], folder: str, stage: int) -> None:
    """One step of size RATE along the clipped gradient, and nothing else."""
    setup = Setup(folder, stage, optimizer=Sgd(learning_rate=RATE, max_grad_norm=0.5))
    before = {f"model.{n}": p for n, p in AutoModelForCausalLM.from_pretrained(folder).named_parameters()}
    answer = groups[2].call(rank_side.train, setup, STEPS[:1])[0]
    moved = [np.linalg.norm(answer["weights"][name] - before[name].detach().numpy()) for name in before]
    assert answer["norms"][0] > 0.5
    assert float(np.linalg.norm(moved)) == pytest.approx(RATE * 0.5, rel=1e-3)


def test_a_processor_without_float16_is_said_so(groups: dict[int, Group], folder: str) -> None:
    (said,) = groups[1].call(rank_side.float16_here, Setup(folder, 3, "float16"))
    assert said.startswith("this machine's processor has no float16")


@pytest.mark.parametrize(("stage", "checkpointing"), [
    (3, True), *(pytest.param(stage, False, marks=pytest.mark.slow) for stage in (0, 2, 3))
])  # fmt: skip
@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_fused_log_probs_train_as_logits_do(
    groups: dict[int, Group], folder: str, untied: str, tied: bool, stage: int, checkpointing: bool
) -> None:
    """One rank in many chunks, the other in one: at stage 3 they wait for each other all the same."""
    setup = Setup(folder if tied else untied, stage, checkpointing=checkpointing)
    plain, fused = (groups[2].call(how, setup, STEPS)[0] for how in (rank_side.train, rank_side.train_fused))
    assert fused["norms"] == pytest.approx(plain["norms"], rel=1e-5)
    for name, wanted in plain["weights"].items():
        np.testing.assert_allclose(fused["weights"][name], wanted, rtol=1e-4, atol=0.01 * RATE, err_msg=name)
