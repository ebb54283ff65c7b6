"""The loss of each source's rows is what a step of those rows alone would have, for any split into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from distft.algorithms.losses.base import Loss
from distft.algorithms.losses.dpo import Dpo
from distft.algorithms.losses.sft import Sft
from distft.batches import Batch, Ragged
from distft.config.optimizers.adamw import AdamW
from distft.models.families.causal import Causal
from distft.workers.reports import named_by_source
from distft.workers.update import Updater
from tests.harness.plain_engine import PlainEngine
from tests.unit.workers.test_update import Tiny

SOURCE = np.array([0, 0, 2, 2, 0, 0, 2, 2])


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def rows(unit_size: int) -> Batch:
    """Eight sequences of different lengths of sources 0 and 2; of source 1 this step has none."""
    rng = np.random.default_rng(1)
    responses = Ragged.of([rng.integers(0, 8, length) for length in (3, 5, 2, 7, 4, 4, 6, 1)], np.int32)
    return Batch({
        "prompt_ids": Ragged.of([rng.integers(0, 8, 2) for _ in range(8)], np.int32),
        "response_ids": responses,
        "response_mask": Ragged.split((rng.random(len(responses.values)) < 0.8).astype(np.uint8), responses.lengths),
        "ref_logprobs": Ragged.split(rng.normal(-2, 1, len(responses.values)).astype(np.float32), responses.lengths),
        "sample": np.arange(8), "unit": np.arange(8) // unit_size, "source": SOURCE,
    })  # fmt: skip


def losses(loss: Loss, batch: Batch, step: list[list[int]], num_sources: int, rates: list[float] | None) -> Any:
    torch.manual_seed(2)
    engine: Any = PlainEngine(Tiny(), AdamW())
    [metrics] = Updater(engine, Causal(), 0).run(batch, [step], loss, num_sources=num_sources, learning_rates=rates)
    return metrics


@pytest.mark.parametrize("rates", [None, [0.1]], ids=["measuring", "training"])
@pytest.mark.parametrize(("loss", "unit_size"), [(Sft(), 1), (Dpo(), 2)])
def test_each_is_that_of_a_step_of_its_own(alone: None, loss: Loss, unit_size: int, rates: list[float] | None) -> None:
    batch = rows(unit_size)
    for step in ([list(range(8))], [[0, 1, 2, 3], [], [4, 5], [6, 7]]):
        found = losses(loss, batch, step, 3, rates)
        for number in (0, 2):
            own = batch.take(np.flatnonzero(number == SOURCE))
            own = own.with_columns(sample=np.arange(4), unit=np.arange(4) // unit_size)
            expected = losses(loss, own, [list(range(4))], 0, None)["loss"]
            assert found[f"loss_by_source/{number}"] == pytest.approx(expected, rel=1e-5)
        assert "loss_by_source/1" not in found, "there is nothing to say of it"
        plain = losses(loss, batch, step, 0, rates)
        assert {name: value for name, value in found.items() if "by_source" not in name} == plain


def test_names_in_place_of_numbers() -> None:
    told = {"loss": 1.0, "loss_by_source/0": 2.0, "loss_by_source/2": 3.0}
    names = ("new", "other", "old")
    assert named_by_source(told, names) == {"loss": 1.0, "loss_by_source/new": 2.0, "loss_by_source/old": 3.0}
    assert named_by_source({"loss": 1.0}, ()) == {"loss": 1.0}
