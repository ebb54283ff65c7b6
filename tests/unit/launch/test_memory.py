"""Bytes a parameter, against the textbook and against what DeepSpeed was measured to hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.config.models import Engine
from distft.launch.memory import (
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
from distft.launch.model_sizes import ModelSizes, sizes_from_config
from tests.unit.launch.examples import LLAMA_8B

GIB, MIB = 2**30, 2**20
SIZES = sizes_from_config(LLAMA_8B)
FLAN_T5 = {
    "model_type": "t5", "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12,
    "vocab_size": 32128, "feed_forward_proj": "gated-gelu",
}  # fmt: skip


def compute(dtype: str = "bfloat16", *, trained: bool = True, checkpointing: bool = False, gpu: bool = True) -> Compute:
    return Compute(dtype, trained, adam=trained, checkpointing=checkpointing, eager_attention=False, gpu=gpu)


def per_parameter(
    engine: Engine, how: Compute, ranks: int = 1, sizes: ModelSizes = SIZES, place: str = "device"
) -> float:
    items = state_items(sizes, engine, how, ranks)
    return sum(item.bytes for item in items if item.place == place and item.when == "always") / sizes.total


def named(items: list[Item], name: str) -> int:
    return sum(item.bytes for item in items if item.name == name)


@pytest.mark.parametrize(("dtype", "expected"), [("float32", 20), ("bfloat16", 16), ("float16", 16)])
def test_zero3_with_adam_holds_what_was_measured(dtype: str, expected: int) -> None:
    """Measured 20.2 and 16.1 bytes a parameter; small buffers make the rest."""
    assert per_parameter(Engine(), compute(dtype)) == pytest.approx(expected, abs=0.01)


def test_textbook_16_bytes_are_plain_float32_without_a_master_copy() -> None:
    """4 weights + 4 gradients + 8 Adam, at stage 0, where DeepSpeed makes no float32 copy of float32 weights."""
    items = state_items(SIZES, Engine(zero_stage=0), compute("float32"), 1)
    by_name = {item.name: item.bytes / SIZES.total for item in items}
    assert by_name == {"parameters": 4, "gradients": 4, "optimizer states": 8}


@pytest.mark.parametrize(
    ("tied", "weights", "adam", "at_rest_all"),
    [(True, 850 * MIB, 1.66 * GIB, 3.32 * GIB), (False, 944.5 * MIB, 1.845 * GIB, 3.69 * GIB)],
)
def test_textbook_table_of_flan_t5_base(tied: bool, weights: float, adam: float, at_rest_all: float) -> None:
    sizes = sizes_from_config({**FLAN_T5, "tie_word_embeddings": tied})
    items = state_items(sizes, Engine(zero_stage=0), compute("float32"), 1)
    assert named(items, "parameters") == pytest.approx(weights, rel=0.002)
    assert named(items, "optimizer states") == pytest.approx(adam, rel=0.002)
    assert at_rest(items, "device") == pytest.approx(at_rest_all, rel=0.002)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [(0, 2 + 2 + 4 + 8), (1, 2 + 2 + 12 / 8), (2, 2 + (2 + 12) / 8), (3, 16 / 8)],
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


def test_sgd_has_no_optimizer_states() -> None:
    how = Compute("float32", trained=True, adam=False, checkpointing=False, eager_attention=False, gpu=False)
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
    assert buffer_items(SIZES, engine, compute(), 1) == []


def test_checkpointing_keeps_a_fraction_of_the_activations() -> None:
    work = Work(tokens=4096, length=2048, read=4096, scalar=True)
    full = named(activation_items(SIZES, compute(), work), "activations")
    saved = named(activation_items(SIZES, compute(checkpointing=True), work), "activations")
    frozen = named(activation_items(SIZES, compute(trained=False), work), "activations")
    assert frozen < saved < full / 8
    assert full == pytest.approx(frozen * (SIZES.layers + 1))


def test_logits_exist_where_they_are_read_and_never_whole_in_float32() -> None:
    work = Work(tokens=4096, length=512, read=1000, scalar=False)
    items = activation_items(SIZES, compute(), work)
    assert named(items, "logits") == 2 * 1000 * SIZES.vocab * 2
    assert named(items, "float32 logits chunk") == 2 * 4 * 2**25 < 4 * 1000 * SIZES.vocab
    scalar = activation_items(SIZES, compute(), Work(tokens=4096, length=512, read=1000, scalar=True))
    assert [item.name for item in scalar] == ["activations"]


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
    less, more = (
        at_rest(state_items(SIZES, Engine(zero_stage=s, persistence_threshold=0), how, ranks), "device")
        for s in (stage, stage + 1)
    )
    # From 0 to 1 DeepSpeed adds a master copy of float32 weights: a 4/ranks that Adam's sharding outweighs.
    assert more <= less
