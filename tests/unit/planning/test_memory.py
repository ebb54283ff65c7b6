"""Bytes a parameter, against the textbook and against what DeepSpeed was measured to hold."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.config.adapters.lora import Lora
from distft.config.models import Engine
from distft.planning import memory
from distft.planning.adapted_sizes import with_adapters
from distft.planning.memory import (
    LOADED,
    ROUNDED_UP,
    Compute,
    Generation,
    Item,
    Work,
    activation_items,
    at_rest,
    buffer_items,
    peak,
    rank_items,
    state_items,
)
from distft.planning.model_sizes import ModelSizes
from distft.planning.size_sources import sizes_from_config
from tests.unit.launch.examples import LLAMA_8B

GIB, MIB = 2**30, 2**20
SMALL = {
    "hidden_size": 256, "intermediate_size": 896, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 100, "tie_word_embeddings": False,
}  # fmt: skip
# What DeepSpeed keeps beyond the states themselves.
BESIDES = (
    "float32 gradients", "parameters on their way", "largest gradient on its way", "gradients cut by a boundary",
    "small parameters kept whole", ROUNDED_UP,
)  # fmt: skip
SIZES = sizes_from_config(LLAMA_8B)


def compute(dtype: str = "bfloat16", *, trained: bool = True, checkpointing: bool = False, gpu: bool = True) -> Compute:
    return Compute(
        dtype, trained, state_bytes=8 if trained else 0, checkpointing=checkpointing, eager_attention=False, gpu=gpu
    )


def per_parameter(
    engine: Engine, how: Compute, ranks: int = 1, sizes: ModelSizes = SIZES, place: str = "device"
) -> float:
    items = state_items(sizes, engine, how, ranks)
    mine = (item for item in items if item.place == place and item.when == "always" and item.name not in BESIDES)
    return sum(item.bytes for item in mine) / sizes.total


def named(items: list[Item], name: str) -> int:
    return sum(item.bytes for item in items if item.name == name)


def test_one_rank_that_offloads_has_the_stages_buffers_and_gathers_what_waits_in_host_memory() -> None:
    """50 M elements of a bucket in bfloat16, their float32 sums; of the parameters only those that wait elsewhere."""
    buckets = {"reduce bucket": 2 * 50_000_000, "reduced gradients in float32": 4 * 50_000_000}

    def buffers(**offload: str) -> dict[str, int]:
        engine = Engine.model_validate({"persistence_threshold": 0, **offload}).on(1)
        return {item.name: item.bytes for item in buffer_items(SIZES, engine, compute(), 1)}

    assert buffers() == {}
    assert buffers(offload_optimizer="cpu") == buckets
    gathered = 2 * (1_000_000_000 + 50_000_000)  # stage3_max_live_parameters, and what is fetched ahead
    assert buffers(offload_parameters="cpu") == pytest.approx(buckets | {"gathered parameters": gathered})


@pytest.mark.parametrize(
    ("stage", "gpu", "expected"), [(0, True, 2), (2, True, 2), (3, True, 0), (0, False, 0), (3, False, 0)]
)
def test_what_is_not_sharded_is_loaded_by_way_of_host_memory(stage: int, gpu: bool, expected: int) -> None:
    """On a CPU it is where it stays; at stage 3 every tensor goes into its shards."""
    items = state_items(SIZES, Engine(zero_stage=stage), compute(gpu=gpu), 8)
    there = [item for item in items if item.name == LOADED]
    assert sum(item.bytes for item in there) == expected * SIZES.total
    assert all((item.place, item.when) == ("host", "loading") for item in there)


@pytest.mark.parametrize(("dtype", "expected"), [("float32", 20), ("bfloat16", 18), ("float16", 18)])
def test_zero3_with_adam_holds_what_was_measured(dtype: str, expected: int) -> None:
    """Measured 20.2 and 18.1 bytes a parameter; small buffers make the rest."""
    assert per_parameter(Engine(), compute(dtype)) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [(0, 2 + 4 + 4 + 8), (1, 2 + 4 + 12 / 8), (2, 2 + (4 + 12) / 8), (3, 18 / 8)],
)
def test_stages_shard_what_they_say(stage: int, expected: float) -> None:
    engine = Engine(zero_stage=stage, persistence_threshold=0)
    assert per_parameter(engine, compute(), ranks=8) == pytest.approx(expected, rel=1e-6)


def test_frozen_roles_hold_parameters_only() -> None:
    assert per_parameter(Engine(persistence_threshold=0), compute(trained=False), ranks=4) == pytest.approx(0.5)
    assert per_parameter(Engine(zero_stage=0), compute(trained=False), ranks=4) == pytest.approx(2.0)


def test_offloaded_states_move_to_the_host_and_none_is_lost() -> None:
    plain = Engine(persistence_threshold=0)
    away = Engine(offload_optimizer="cpu", offload_parameters="cpu", persistence_threshold=0)
    assert per_parameter(away, compute(), 4) == 0
    assert per_parameter(away, compute(), 4, place="host") == pytest.approx(per_parameter(plain, compute(), 4))


@pytest.mark.parametrize(
    ("stage", "host", "device"),
    [
        # The optimizer's gradients; at 1 and 2 the parameters' way back, and the sum of the gradients on the GPU.
        (1, (4 + 8 + 4 + 2) / 4, 2 + 4),
        (2, (4 + 8 + 4 + 2) / 4, 2 + 4 / 4),
        (3, (4 + 4 + 8 + 4) / 4, 2 / 4),
    ],
)
def test_an_optimizer_on_the_host_keeps_more_than_it_moves(stage: int, host: float, device: float) -> None:
    engine = Engine(zero_stage=stage, offload_optimizer="cpu", persistence_threshold=0)
    items = [item for item in state_items(SIZES, engine, compute(), 4) if item.name != ROUNDED_UP]
    items = [item for item in items if "largest" not in item.name and "boundary" not in item.name]
    assert at_rest(items, "host") / SIZES.total == pytest.approx(host, rel=1e-6)
    assert at_rest(items, "device") / SIZES.total == pytest.approx(device, rel=1e-6)


def test_page_locked_memory_comes_in_powers_of_two() -> None:
    """Gradients, master weights and the optimizer's gradients: 4 bytes of 8.03e9 each, in 32 GiB. Adam's are not."""
    engine = Engine(offload_optimizer="cpu", persistence_threshold=0)
    items = state_items(SIZES, engine, compute(), 1)
    assert named(items, ROUNDED_UP) == 3 * (32 * GIB - 4 * SIZES.total)
    assert named(state_items(SIZES, engine, compute(gpu=False), 1), ROUNDED_UP) == 0


def test_a_tensor_cut_by_a_boundary_is_kept_whole_at_stage_2_in_float32() -> None:
    items = state_items(SIZES, Engine(zero_stage=2), compute("float32"), 8)
    assert named(items, "gradients cut by a boundary") == 4 * 128256 * 4096
    for how, ranks in ((compute("float32"), 1), (compute("bfloat16"), 8)):
        assert named(state_items(SIZES, Engine(zero_stage=2), how, ranks), "gradients cut by a boundary") == 0


def test_shards_of_stage_3_are_cut_tensor_by_tensor() -> None:
    """On 3 ranks a matrix of 4096 x 4096 makes shards of ceil(16777216 / 3) = 5592406 elements."""
    engine = Engine(persistence_threshold=0)
    held = named(state_items(SIZES, engine, compute(), 3), "parameters") // 2
    assert SIZES.total / 3 < held < SIZES.total / 3 + 300
    assert held == SIZES.shard(3)


def test_sgd_has_no_optimizer_states() -> None:
    how = Compute("float32", trained=True, state_bytes=0, checkpointing=False, eager_attention=False, gpu=False)
    assert per_parameter(Engine(), how) == pytest.approx(12)


def test_small_parameters_stay_whole_on_every_rank_at_stage_3() -> None:
    items = state_items(SIZES, Engine(persistence_threshold=10_000), compute(), 8)
    assert named(items, "small parameters kept whole") == 2 * 65 * 4096
    assert named(state_items(SIZES, Engine(), compute(), 1), "small parameters kept whole") == 0


def test_a_frozen_rank_gathers_a_layer_and_its_prefetch_a_trained_one_more() -> None:
    engine = Engine(reduce_bucket_size=50_000_000, persistence_threshold=0)
    frozen = buffer_items(SIZES, engine, compute(trained=False), 8)
    trained = buffer_items(SIZES, engine, compute(), 8)
    assert named(frozen, "gathered parameters") == 2 * (SIZES.largest + 50_000_000)
    assert named(trained, "gathered parameters") == 2 * (1_000_000_000 + 50_000_000)
    assert named(trained, "reduce bucket") == 100_000_000
    assert buffer_items(SIZES, engine.on(1), compute(), 1) == []


def test_checkpointing_keeps_a_fraction_of_the_activations() -> None:
    work = Work(tokens=4096, length=2048, read=4096, scalar=True)
    full = named(activation_items(SIZES, compute(), work), "activations")
    saved = named(activation_items(SIZES, compute(checkpointing=True), work), "activations")
    frozen = named(activation_items(SIZES, compute(trained=False), work), "activations")
    assert frozen < saved < full / 8
    passing = 4096 * 2 * (2 * SIZES.intermediate + SIZES.hidden)
    last_norm = 4096 * (2 * 2 + 4) * SIZES.hidden
    assert full == frozen * SIZES.layers + last_norm + passing


def test_eager_attention_masks_a_packed_row_by_its_square() -> None:
    found = activation_items(SIZES, compute(), Work(tokens=4096, length=4096, read=0, scalar=True, masked=True))
    assert named(found, "mask of a packed row") == 4096**2 * (1 + 2)


def test_parts_of_a_packed_row_are_kept_beside_the_whole() -> None:
    rows, parts = (
        activation_items(SIZES, compute(), Work(tokens=4096, length=512, read=0, scalar=True, parted=parted))
        for parted in (False, True)
    )
    more = named(parts, "activations") - named(rows, "activations")
    assert more == SIZES.layers * 4096 * 2 * SIZES.heads * SIZES.head_dim


def test_logits_exist_where_they_are_read_and_never_whole_in_float32() -> None:
    work = Work(tokens=4096, length=512, read=1000, scalar=False)
    items = activation_items(SIZES, compute(), work)
    assert named(items, "logits") == 2 * 1000 * SIZES.vocab * 2
    assert named(items, "float32 logits chunk") == 2 * 4 * 2**25 < 4 * 1000 * SIZES.vocab
    scalar = activation_items(SIZES, compute(), Work(tokens=4096, length=512, read=1000, scalar=True))
    assert [item.name for item in scalar] == ["activations", "float32 input of the head"]
    assert named(scalar, "float32 input of the head") == 2 * 4 * 1000 * SIZES.hidden


def test_generation_holds_the_twin_and_its_cache() -> None:
    work = Work(tokens=512, length=512, read=256, scalar=False, generation=Generation(16, 512, gathered=True))
    items = rank_items(SIZES, Engine(), compute(), work, 8)
    assert named(items, "generation twin") == 2 * SIZES.total
    assert named(items, "key-value cache") == 2 * 32 * 8 * 128 * 16 * 512 * 2
    sharded = Work(tokens=512, length=512, read=256, scalar=False, generation=Generation(16, 512, gathered=False))
    assert named(rank_items(SIZES, Engine(), compute(), sharded, 8), "generation twin") == 0


def test_peak_is_what_is_held_at_once() -> None:
    items = [Item("a", 10), Item("b", 5, "generation"), Item("c", 7, "training"), Item("d", 100, "training", "host")]
    assert peak(items, "device") == 17
    assert at_rest(items, "device") == 10
    assert peak(items, "host") == 100


@given(
    stage=st.integers(0, 2),
    ranks=st.integers(2, 512),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    trained=st.booleans(),
)
def test_more_sharding_never_holds_more(stage: int, ranks: int, dtype: str, trained: bool) -> None:
    how = compute(dtype, trained=trained)
    less, more = (per_parameter(Engine(zero_stage=s, persistence_threshold=0), how, ranks) for s in (stage, stage + 1))
    # From 0 to 1 DeepSpeed adds a master copy of float32 weights: a 4/ranks that Adam's sharding outweighs.
    assert more <= less * (1 + 1e-6)  # stage 3 pads every tensor


@given(
    stage=st.integers(0, 3),
    ranks=st.integers(2, 8192),
    more=st.integers(0, 8192),
    offload=st.sampled_from(["none", "cpu"]),
    trained=st.booleans(),
)
def test_more_ranks_never_hold_more_each(stage: int, ranks: int, more: int, offload: str, trained: bool) -> None:
    engine = Engine.model_construct(
        zero_stage=stage, offload_optimizer=offload, offload_parameters="none", persistence_threshold=10**5,
        reduce_bucket_size=5 * 10**7,
    )  # fmt: skip
    how = compute(trained=trained)
    few, many = (state_items(SIZES, engine, how, number) for number in (ranks, ranks + more))
    for place in ("device", "host"):
        assert sum(item.bytes for item in many if item.place == place) <= sum(
            item.bytes for item in few if item.place == place
        )


def a_layer_of_a_token(sizes: ModelSizes, how: Compute, length: int) -> float:
    """Bytes that a layer keeps of a token: checkpointing spares those of all layers but one, less their inputs."""
    work = Work(tokens=length, length=length, read=0, scalar=True)
    full, saved = (
        named(activation_items(sizes, replace(how, checkpointing=checkpointing), work), "activations") / length
        for checkpointing in (False, True)
    )
    return (full - saved + sizes.layers * sizes.hidden * how.size) / (sizes.layers - 1)


# dtype, hidden, heads, key heads, elements of a head, MLP: bytes that a Llama's layer kept of a token in rows of 1,024
# on one H100 (2026-11-27, torch 2.11, Liger 0.8.5), without and with Liger's kernels.
ON_AN_H100 = {
    ("bfloat16", 2048, 32, 8, 64, 8192): (108_680, 75_912),
    ("bfloat16", 2048, 32, 32, 64, 8192): (114_824, 82_056),
    ("bfloat16", 2048, 16, 4, 128, 5632): (88_136, 60_488),
    ("float32", 1024, 16, 4, 64, 4096): (172_034, 147_458),
}


@pytest.mark.parametrize(("model", "measured"), list(ON_AN_H100.items()), ids=str)
def test_a_layer_keeps_what_it_kept_on_a_gpu(model: tuple[Any, ...], measured: tuple[int, int]) -> None:
    dtype, hidden, heads, kv_heads, head_dim, intermediate = model
    sizes = sizes_from_config({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": 2,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "vocab_size": 100,
    })  # fmt: skip
    for liger, bytes_ in zip((False, True), measured, strict=True):
        planned = a_layer_of_a_token(sizes, replace(compute(dtype), liger=liger), length=1024)
        assert planned == pytest.approx(bytes_, abs=10)


def saved_for_backward(
    layers: int, dtype: str, kv_heads: int, attention: str, *, checkpointing: bool, lora: Lora | None = None
) -> int:
    """Bytes that torch keeps of a forward pass of a real Llama, its parameters aside, for each of 512 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from distft.models.adapters.adapt import add_adapters

    config = LlamaConfig(**{**SMALL, "num_hidden_layers": layers, "num_key_value_heads": kv_heads},
                         attn_implementation=attention, use_cache=False)  # fmt: skip
    model = LlamaForCausalLM(config).to(getattr(torch, dtype)).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if lora is not None:
        add_adapters(model, lora, dropout=True, seed=1)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: list[weakref.ref[torch.Tensor]] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(weakref.ref(tensor))  # of what is let go of before the forward pass has ended nothing is kept
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.model(input_ids=torch.randint(0, 100, (4, 128)))
    assert output.last_hidden_state.requires_grad
    kept = {t.untyped_storage().data_ptr(): t for one in saved if (t := one()) is not None}
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in parameters) // 512


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kv_heads", "attention", "above"), [(4, "sdpa", 1.05), (2, "sdpa", 1.1), (4, "eager", 1.2)])
def test_a_layer_keeps_what_torch_saves_of_it(dtype: str, kv_heads: int, attention: str, above: float) -> None:
    """From what a third layer saves; the plan may be above, as it counts expanded keys and values."""
    two, three = (saved_for_backward(n, dtype, kv_heads, attention, checkpointing=False) for n in (2, 3))
    sizes = sizes_from_config({"model_type": "llama", **SMALL, "num_key_value_heads": kv_heads})
    how = Compute(
        dtype, trained=True, state_bytes=8, checkpointing=False, eager_attention=attention == "eager", gpu=False
    )
    planned = a_layer_of_a_token(sizes, how, length=128)
    assert three - two <= planned <= above * (three - two)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_adapters_keep_what_torch_saves_of_them(dtype: str, dropout: float, dora: bool) -> None:
    lora = Lora(r=8, dropout=dropout, dora=dora)
    two, three = (saved_for_backward(n, dtype, 4, "sdpa", checkpointing=False, lora=lora) for n in (2, 3))
    sizes = with_adapters(sizes_from_config({"model_type": "llama", **SMALL}), lora)
    planned = a_layer_of_a_token(sizes, compute(dtype, gpu=False), length=128)
    assert three - two <= planned <= 1.2 * (three - two)


def test_what_dora_computes_of_a_matrix_is_planned() -> None:
    """A layer much larger than its input and its adapter, forward and backward."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    from tests.harness.torch_memory import most_held

    rows, columns = 300, 500
    module = torch.nn.ModuleDict({"layer": torch.nn.Linear(columns, rows, bias=False)})
    layer = inject_adapter_in_model(LoraConfig(r=1, use_dora=True, target_modules=["layer"]), module)["layer"]
    held = most_held(lambda: layer(torch.ones(1, columns)).sum().backward())
    assert held == pytest.approx(4 * Lora(dora=True).passing(rows, columns), rel=0.05)
    assert Lora().passing(rows, columns) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_with_checkpointing_torch_saves_the_input_of_each_layer(dtype: str) -> None:
    two, three = (saved_for_backward(n, dtype, 4, "sdpa", checkpointing=True) for n in (2, 3))
    assert three - two == pytest.approx(SMALL["hidden_size"] * compute(dtype).size, rel=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_holds_what_is_planned_for_a_fused_head(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """Beside what has one number a token; less than half of what the logits and their gradient would be."""
    import torch

    from distft.algorithms import linear_logprobs, logprobs
    from tests.harness.torch_memory import most_held

    for module, name in ((linear_logprobs, "_CHUNK_ELEMENTS_CPU"), (memory, "HEAD_CHUNK_CPU")):
        monkeypatch.setattr(module, name, 2**16)
    for module, name in ((logprobs, "_CHUNK_ELEMENTS_CPU"), (memory, "CHUNK_CPU")):
        monkeypatch.setattr(module, name, 2**12)
    sizes = sizes_from_config(SMALL | {"model_type": "llama", "vocab_size": 2000, "hidden_size": 16})
    how = replace(compute(dtype, gpu=False), fused=True)
    work = Work(tokens=256, length=64, read=256, scalar=False)
    planned = named(activation_items(sizes, how, work), "logits of a chunk")
    weight = torch.randn(2000, 16, dtype=getattr(torch, dtype))
    hidden = torch.randn(256, 16, dtype=getattr(torch, dtype)).requires_grad_()

    def step() -> None:
        found = linear_logprobs.linear_logprobs(
            hidden, weight, torch.zeros(256, dtype=torch.int64), outputs=("logprobs", "entropy")
        )
        (found["logprobs"].sum() + found["entropy"].sum()).backward()

    small = 256 * (16 * 4 + 8 * 20)  # the states' gradient once more, and what has one number a token
    assert planned * 0.95 <= most_held(step) <= planned + small
    assert planned < 2 * 256 * 2000 * how.size / 2
    frozen = activation_items(sizes, replace(how, trained=False), work)
    assert named(frozen, "logits of a chunk") == 2**16 * how.size


def test_the_plan_knows_the_chunks_of_the_computation() -> None:
    from distft.algorithms import linear_logprobs, logprobs, measured
    from distft.planning import teaching

    assert (teaching.CHUNK_CPU, teaching.CHUNK_GPU) == (measured.CHUNK_ELEMENTS_CPU, measured.CHUNK_ELEMENTS_GPU)
    assert (memory.CHUNK_CPU, memory.CHUNK_GPU) == (logprobs._CHUNK_ELEMENTS_CPU, logprobs._CHUNK_ELEMENTS_GPU)
    chunks = (linear_logprobs._CHUNK_ELEMENTS_CPU, linear_logprobs._CHUNK_ELEMENTS_GPU)
    assert chunks == (memory.HEAD_CHUNK_CPU, memory.HEAD_CHUNK_GPU)
