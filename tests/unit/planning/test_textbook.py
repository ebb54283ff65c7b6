"""The textbook's table of training memory, the plan's, and DeepSpeed's own estimators: where they agree and why not.

The textbook counts, for each parameter in float32, 4 bytes of weights, 8 of Adam's two moments, 4 of gradients and,
as a rule of thumb, 8 of activations and temporary memory.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from distft.config.adapters.lora import Lora
from distft.config.models import Engine
from distft.planning.adapted_sizes import with_adapters
from distft.planning.known_models import known_config
from distft.planning.memory import Compute, Item, at_rest, state_items
from distft.planning.model_sizes import ModelSizes
from distft.planning.size_sources import sizes_from_config

GIB, MIB = 2**30, 2**20
WEIGHTS, ADAM, GRADIENTS, RULE_OF_THUMB = 4, 8, 4, 8
FLAN_T5 = known_config("google/flan-t5-base")
LLAMA_8B = known_config("meta-llama/Meta-Llama-3-8B")
assert FLAN_T5 is not None
assert LLAMA_8B is not None


def states(sizes: ModelSizes, dtype: str, stage: int, ranks: int = 1) -> list[Item]:
    how = Compute(dtype, trained=True, state_bytes=8, checkpointing=False, eager_attention=False, gpu=True)
    return state_items(sizes, Engine(zero_stage=stage, persistence_threshold=0), how, ranks)  # type: ignore[arg-type]


def by_name(items: list[Item], sizes: ModelSizes) -> dict[str, float]:
    return {item.name: item.bytes / sizes.total for item in items if item.when == "always"}


@pytest.mark.parametrize(
    ("tied", "parameters", "weights", "adam", "at_rest_all"),
    [
        (True, 222_903_552, 850 * MIB, 1.66 * GIB, 3.32 * GIB),
        (False, 247_577_856, 944.5 * MIB, 1.845 * GIB, 3.69 * GIB),
    ],
)
def test_flan_t5_base(tied: bool, parameters: int, weights: float, adam: float, at_rest_all: float) -> None:
    """Tied as the textbook takes it, and untied as it really is."""
    sizes = sizes_from_config({**FLAN_T5, "tie_word_embeddings": tied})
    assert sizes.total == parameters
    items = states(sizes, "float32", 0)
    assert by_name(items, sizes) == {"parameters": WEIGHTS, "gradients": GRADIENTS, "optimizer states": ADAM}
    assert next(item.bytes for item in items if item.name == "parameters") == pytest.approx(weights, rel=0.002)
    assert next(item.bytes for item in items if item.name == "optimizer states") == pytest.approx(adam, rel=0.002)
    assert at_rest(items, "device") == pytest.approx(at_rest_all, rel=0.002)
    whole = sizes.total * (WEIGHTS + ADAM + GRADIENTS + RULE_OF_THUMB)
    assert whole == pytest.approx(1.5 * at_rest_all, rel=0.002)


def test_deepspeed_holds_a_float32_copy_that_the_textbook_does_not_know() -> None:
    """20 bytes a parameter in float32 (4 more than 16), 18 in bfloat16, where the weights are halved."""
    sizes = sizes_from_config(LLAMA_8B)
    wide, narrow = by_name(states(sizes, "float32", 3), sizes), by_name(states(sizes, "bfloat16", 3), sizes)
    assert wide == {"parameters": 4, "gradients": 4, "master weights": 4, "optimizer states": 8}
    assert narrow == {"parameters": 2, "gradients": 4, "master weights": 4, "optimizer states": 8}


def test_deepspeeds_estimator_counts_gradients_in_float32_as_they_are_added_up() -> None:
    """Theirs at stage 3: 18 bytes a parameter over the ranks and the largest layer gathered (2 + 2).

    Ours in bfloat16 too (2 + 4 + 4 + 8), and in the step the gradients once more, 1e9 elements at a time.
    """
    from deepspeed.runtime.zero import stage3

    sizes = sizes_from_config(LLAMA_8B)
    largest = sizes.largest
    _, theirs, gathered = stage3.estimate_zero3_model_states_mem_needs(
        sizes.total, largest, num_gpus_per_node=8, num_nodes=2, cpu_offload=False
    )
    assert gathered == 4 * largest
    assert theirs - gathered == int(18 * sizes.total / 16)
    items = states(sizes, "bfloat16", 3, ranks=16)
    assert at_rest(items, "device") == pytest.approx(theirs - gathered, rel=1e-3)
    in_the_step = sum(item.bytes for item in items if item.when == "step")
    assert in_the_step / sizes.total == pytest.approx(4 / 16, rel=1e-3)


def test_deepspeeds_estimator_of_stage_2_counts_gradients_twice() -> None:
    """Theirs: 2 a parameter whole and 18 over the ranks (gradients of 2 and of 4 bytes, 4, 8). Ours: 16 (4, 4, 8)."""
    from deepspeed.runtime.zero import stage_1_and_2 as stage2

    sizes = sizes_from_config(LLAMA_8B)
    _, theirs = stage2.estimate_zero2_model_states_mem_needs(
        sizes.total, num_gpus_per_node=8, num_nodes=1, cpu_offload=False
    )
    items = states(sizes, "bfloat16", 2, ranks=8)
    ours = by_name(items, sizes)
    assert theirs / sizes.total == pytest.approx(2 + 18 / 8, rel=1e-6)
    assert sum(ours.values()) == pytest.approx(2 + 16 / 8, rel=1e-3)
    assert not [item for item in items if item.when == "step"]


def test_a_low_rank_update_of_one_matrix() -> None:
    """512 x 64 has 32,768 parameters, of rank 8 they are 8 x (512 + 64) = 4,608: 86 % fewer."""
    sizes = sizes_from_config(FLAN_T5)
    matrix = next(one for one in sizes.tensors if one.linear)
    small = replace(sizes, tensors=(replace(matrix, shape=(512, 64), count=1),))
    assert small.total == 32_768
    assert with_adapters(small, Lora(r=8)).trained.total == 4_608
    assert with_adapters(small, Lora(r=8)).trained.total / small.total == pytest.approx(0.14, abs=0.005)
