"""What is recorded of an update: the same of any split into micro-batches and ranks, another where it differs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from distft.algorithms.losses.clipped import ClippedPolicy
from distft.batches import Batch, Ragged
from distft.config.optimizers.adamw import AdamW
from distft.engine.layer_norms import LayerNorms
from distft.models.families.causal import Causal
from distft.tracking.flight import MOST_SAMPLES, StepTrace
from distft.workers.collate import collate
from distft.workers.flight_recorder import FlightRecorder
from distft.workers.update import Updater
from tests.harness.plain_engine import PlainEngine
from tests.unit.workers.test_update import Tiny

ROWS = 6
WHOLE = [list(range(ROWS))]
RESPONSES = [[1, 2, 3], [4], [5, 6], [1, 1, 1, 1], [2, 3], [7, 6, 5]]
MASKS = [[1, 1, 1], [1], [0, 1], [1, 1, 0, 1], [0, 0], [1, 1, 1]]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def batch(**columns: Any) -> Batch:
    advantages = [[0.5 * sample + place for place in range(len(row))] for sample, row in enumerate(RESPONSES)]
    told = {"masks": MASKS, "prompts": [[3, sample] for sample in range(ROWS)], "advantages": advantages} | columns
    return Batch({
        "prompt_ids": Ragged.of(told["prompts"], np.int32), "response_ids": Ragged.of(RESPONSES, np.int32),
        "response_mask": Ragged.of(told["masks"], np.uint8), "advantages": Ragged.of(told["advantages"], np.float32),
        "old_logprobs": Ragged.of([[-2.0] * len(row) for row in RESPONSES], np.float32),
        "unit": np.arange(ROWS), "sample": np.arange(ROWS),
    })  # fmt: skip


def recorded(samples: Batch, micro_batches: list[list[int]], num_steps: int = 1) -> tuple[StepTrace, ...]:
    torch.manual_seed(1)
    engine: Any = PlainEngine(Tiny(), AdamW())
    norms = LayerNorms(engine.module, engine._optimizer, 0, AdamW().max_grad_norm, ready=lambda: None)
    recorder = FlightRecorder(norms, zero_stage=0, shared_by=1, dtype="float32")
    updater = Updater(engine, Causal(), 0, recorder=recorder)
    updater.run(samples, [micro_batches] * num_steps, ClippedPolicy(), learning_rates=[0.1] * num_steps)
    return recorder.take().updates


def by_sample(trace: StepTrace) -> dict[int, int]:
    assert trace.micro_batches is not None
    assert trace.samples is not None
    return dict(zip((sample for micro in trace.micro_batches for sample in micro), trace.samples, strict=True))


def test_any_split_has_the_same_inputs(alone: None) -> None:
    (whole,) = recorded(batch(), WHOLE)
    assert whole.micro_batches == (tuple(range(ROWS)),)
    assert list(whole.inputs) == [
        "prompt_ids", "response_ids", "response_mask", "loss_mask", "advantages", "old_logprobs",
    ]  # fmt: skip
    for split in ([[5, 0], [3], [], [4], [1, 2]], [[0], [1], [2], [3], [4], [5]]):
        (told,) = recorded(batch(), split)
        assert told.inputs == whole.inputs
        assert by_sample(told) == by_sample(whole)
        assert told.outputs["logprobs"].digest == whole.outputs["logprobs"].digest
        assert told.outputs["logprobs"][1:] == pytest.approx(whole.outputs["logprobs"][1:])
        assert told.loss == pytest.approx(whole.loss)
        assert told.gradients == pytest.approx(whole.gradients)
        assert told.weights == pytest.approx(whole.weights, rel=1e-5)


def test_ranks_add_up() -> None:
    (whole,) = recorded(batch(), WHOLE)
    parts = [recorded(batch(), [rows])[0] for rows in ([0, 4, 2], [1, 3, 5])]
    for name, column in whole.inputs.items():
        assert sum(part.inputs[name].digest for part in parts) % 2**64 == column.digest
    assert {**by_sample(parts[0]), **by_sample(parts[1])} == by_sample(whole)


@pytest.mark.parametrize(("column", "values", "names", "sample"), [
    ("masks", [*MASKS[:3], [1, 1, 1, 1], *MASKS[4:]],
     {"response_mask", "loss_mask", "advantages", "old_logprobs"}, 3),
    ("prompts", [[3, 0], [3, 7], *([3, sample] for sample in range(2, ROWS))], {"prompt_ids"}, 1),
])  # fmt: skip
def test_what_differs_is_told_by_column_and_sample(column: str, values: Any, names: set[str], sample: int) -> None:
    (one,), (other,) = recorded(batch(), WHOLE), recorded(batch(**{column: values}), WHOLE)
    assert {name for name in one.inputs if one.inputs[name] != other.inputs[name]} == names
    mine, theirs = by_sample(one), by_sample(other)
    assert {number for number in mine if mine[number] != theirs[number]} == {sample}


def test_a_value_at_a_masked_token_is_read_by_nobody() -> None:
    advantages = [[0.5 * sample + place for place in range(len(row))] for sample, row in enumerate(RESPONSES)]
    advantages[3][2] = 99.0
    assert recorded(batch(advantages=advantages), WHOLE) == recorded(batch(), WHOLE)


def test_what_the_loss_was_handed_is_not_kept_until_the_end_of_the_step() -> None:
    """A column of a teacher's may be a number for each token of the vocabulary."""
    samples, module = batch(), nn.Linear(1, 1)
    norms = LayerNorms(module, torch.optim.SGD(module.parameters()), 0, 1.0, ready=lambda: None)
    recorder = FlightRecorder(norms, zero_stage=0, shared_by=1, dtype="float32")
    recorder.begin()
    micro = collate(Causal(), samples, [0, 1], ["advantages"], 0, torch.device("cpu"))
    handed = weakref.ref(micro.loss.columns["advantages"])
    recorder.saw(samples, micro, {}, torch.ones(()), reads_tokens=True)
    del micro
    gc.collect()
    assert handed() is None


def test_weights_before_are_told_once() -> None:
    first, second = recorded(batch(), WHOLE, num_steps=2)
    assert first.before is not None
    assert first.before != first.weights
    assert second.before is None


def test_many_samples_are_not_told_one_by_one() -> None:
    many = MOST_SAMPLES + 1
    tokens = Ragged.of([[1]] * many, np.int32)
    numbers = Ragged.of([[1.0]] * many, np.float32)
    samples = Batch({
        "prompt_ids": tokens, "response_ids": tokens, "advantages": numbers, "old_logprobs": numbers,
        "unit": np.arange(many), "sample": np.arange(many),
    })  # fmt: skip
    (told,) = recorded(samples, [list(range(many))])
    assert (told.micro_batches, told.samples) == (None, None)
    assert told.inputs["prompt_ids"]
