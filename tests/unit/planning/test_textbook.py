"""The textbook's table of training memory, the plan's, and DeepSpeed's own estimators: where they agree and why not.

The textbook counts, for each parameter in float32, 4 bytes of weights, 8 of Adam's two moments, 4 of gradients and,
as a rule of thumb, 8 of activations and temporary memory.
"""

from __future__ import annotations

import pytest

from distft.config.models import Engine
from distft.planning.known_models import known_config
from distft.planning.memory import Compute, Item, at_rest, state_items
from distft.planning.model_sizes import ModelSizes, sizes_from_config

GIB, MIB = 2**30, 2**20
WEIGHTS, ADAM, GRADIENTS, RULE_OF_THUMB = 4, 8, 4, 8
FLAN_T5 = known_config("google/flan-t5-base")
LLAMA_8B = known_config("meta-llama/Meta-Llama-3-8B")
assert FLAN_T5 is not None
assert LLAMA_8B is not None


def states(sizes: ModelSizes, dtype: str, stage: int, ranks: int = 1) -> list[Item]:
    how = Compute(dtype, trained=True, adam=True, checkpointing=False, eager_attention=False, gpu=True)
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
    """20 bytes a parameter in float32 (4 more than 16), 16 in bfloat16, where weights and gradients are halved."""
    sizes = sizes_from_config(LLAMA_8B)
    wide, narrow = by_name(states(sizes, "float32", 3), sizes), by_name(states(sizes, "bfloat16", 3), sizes)
    assert wide == {"parameters": 4, "gradients": 4, "master weights": 4, "optimizer states": 8}
    assert narrow == {"parameters": 2, "gradients": 2, "master weights": 4, "optimizer states": 8}


def test_deepspeeds_estimators_count_gradients_in_float32() -> None:
    """Theirs at stage 3: 18 bytes a parameter over the ranks and the largest layer gathered (2 + 2).

    Ours in bfloat16: 16 at rest (2 + 2 + 4 + 8), because the gradients that wait are in the model's precision; they
    become float32 in the step, a sub-group of 1e9 elements at a time, which is the item "float32 gradients".
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
    assert at_rest(items, "device") / sizes.total == pytest.approx(16 / 16, rel=1e-3)
    in_the_step = sum(item.bytes for item in items if item.name == "float32 gradients")
    assert in_the_step / sizes.total == pytest.approx(4 / 16, rel=1e-3)
    # Between rest and step: of the two copies of the gradients 18 has room for one and a half.
    assert at_rest(items, "device") < theirs - gathered < at_rest(items, "device") + in_the_step


def test_deepspeeds_estimator_of_stage_2_counts_gradients_twice() -> None:
    """Theirs: 2 a parameter whole and 18 over the ranks (gradients of 2 and of 4 bytes, 4, 8). Ours at rest: 14."""
    from deepspeed.runtime.zero import stage_1_and_2 as stage2

    sizes = sizes_from_config(LLAMA_8B)
    _, theirs = stage2.estimate_zero2_model_states_mem_needs(
        sizes.total, num_gpus_per_node=8, num_nodes=1, cpu_offload=False
    )
    items = states(sizes, "bfloat16", 2, ranks=8)
    ours = by_name(items, sizes)
    ours.pop("gradients cut by a boundary")
    assert theirs / sizes.total == pytest.approx(2 + 18 / 8, rel=1e-6)
    assert sum(ours.values()) == pytest.approx(2 + 14 / 8, rel=1e-3)
    in_the_step = sum(item.bytes for item in items if item.name == "float32 gradients")
    assert sum(ours.values()) + in_the_step / sizes.total == pytest.approx(2 + 18 / 8, rel=0.01)
