"""The update: what it reads of the device, and when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from distft.algorithms.logprobs import token_logprobs
from distft.algorithms.losses.base import LossResult, Metric, Reduce
from distft.algorithms.losses.sft import Sft
from distft.batches import Batch, Ragged
from distft.config.optimizers.adamw import AdamW
from distft.engine.diverged import NonFiniteLoss
from distft.models.families.causal import Causal
from distft.models.selected import Reading
from distft.workers.update import StepSums, Updater
from tests.harness.plain_engine import PlainEngine


class CountReads(TorchDispatchMode):
    """Counts how often a number is taken out of a tensor: on a GPU the host would wait there.

    Flags aside: log-probs ask on a CPU, and only there, whether a row has no finite logit.
    """

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default and args[0].is_floating_point()
        return function(*args, **(kwargs or {}))


class Tiny(nn.Module):
    """Log-probabilities of the selected positions from the token there alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 8)

    def forward(self, input_ids: Tensor, select: Tensor, reading: Reading) -> dict[str, Tensor]:
        logits = self.table(input_ids.flatten()[select])
        return token_logprobs(logits, reading.targets, outputs=reading.outputs, temperature=reading.temperature)


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_numbers_are_read_once_a_step_however_many_micro_batches(alone: None) -> None:
    tokens = Ragged.of([np.array([1, 2, 3])] * 12, np.int32)
    batch = Batch({"prompt_ids": tokens, "response_ids": tokens, "unit": np.arange(12), "sample": np.arange(12)})
    reads, losses = [], []
    for rows in (6, 2, 1):
        torch.manual_seed(1)
        engine: Any = PlainEngine(Tiny(), AdamW())
        step = [list(range(first, first + rows)) for first in range(0, 12, rows)]
        with CountReads() as counting:
            [metrics] = Updater(engine, Causal(), 0).run(batch, [step], Sft(), learning_rates=[0.1])
        reads.append(counting.count)
        losses.append(metrics["loss"])
    assert reads[0] == reads[1] == reads[2] > 0
    assert losses == pytest.approx([losses[0]] * 3)


@pytest.mark.parametrize("rates", [None, [0.1]], ids=["measuring", "training"])
def test_a_loss_that_is_no_number_is_told_with_what_to_do(alone: None, rates: list[float] | None) -> None:
    tokens = Ragged.of([np.array([1, 2, 3])], np.int32)
    batch = Batch({"prompt_ids": tokens, "response_ids": tokens, "unit": np.arange(1), "sample": np.arange(1)})
    module = Tiny()
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    engine: Any = PlainEngine(module, AdamW())
    with pytest.raises(NonFiniteLoss, match="the loss is nan") as caught:
        Updater(engine, Causal(), 0).run(batch, [[[0]]], Sft(), learning_rates=rates)
    assert ("optimizer.learning_rate=0.01" in str(caught.value)) is (rates is not None)


def test_the_sums_are_what_adding_them_one_by_one_gives(alone: None) -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(300, 4)).astype(np.float32)
    kinds: tuple[tuple[str, Reduce], ...] = (("kl", "tokens"), ("least", "min"), ("most", "max"))
    sums = StepSums()
    for row in rows:
        values = {name: Metric(torch.tensor(float(value)).double(), kind)
                  for (name, kind), value in zip(kinds, row[1:], strict=True)}  # fmt: skip
        sums.add(LossResult(torch.tensor(row[0]), values))
    loss = kl = 0.0
    for row in rows.tolist():
        loss, kl = loss + row[0], kl + row[1]
    assert sums.reduced({"tokens": 7.0}, 0.1) == {
        "loss": loss, "kl": kl / 7.0, "least": float(rows[:, 2].min()), "most": float(rows[:, 3].max())
    }  # fmt: skip
