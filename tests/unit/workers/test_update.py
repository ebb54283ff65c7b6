"""The update: what it reads of the device, and when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
from distft.engine.diverged import Diverged, NonFiniteLoss
from distft.models.families.causal import Causal
from distft.models.selected import Reading
from distft.workers.skipping import Skipping
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


@dataclass(frozen=True)
class Spoilt(Sft):
    """SFT's, that the first row of a micro-batch spoils: token 6 its loss, 7 its gradient alone."""

    def __call__(self, outputs: Any, batch: Any, denominators: Any) -> LossResult:
        found = super().__call__(outputs, batch, denominators)
        logprobs, token = outputs["logprobs"], batch.columns["first"][0]
        if token == 6:
            return LossResult(found.loss / 0.0, found.metrics)
        if token == 7:  # the root's slope at zero, times the zero behind it
            return LossResult(found.loss + (logprobs.sum() * 0.0).sqrt(), found.metrics)
        return found

    columns = ("first",)


@pytest.mark.parametrize("token", [6, 7], ids=["loss", "gradient"])
def test_a_step_that_came_out_as_no_number_is_as_if_it_had_not_been(alone: None, token: int) -> None:
    """Weights after three steps, of which the second is spoilt, are those after the first and the third, each at its
    own learning rate; Adam has counted two."""

    def after(firsts: list[int], rates: list[float], skipping: Skipping) -> tuple[Tensor, list[dict[str, float]], Any]:
        count = len(firsts)
        tokens = Ragged.of([np.array([first % 6 + 1, 2, 3]) for first in firsts], np.int32)
        batch = Batch({
            "prompt_ids": tokens, "response_ids": tokens, "unit": np.arange(count), "sample": np.arange(count),
            "first": np.array(firsts, np.float32),
        })  # fmt: skip
        torch.manual_seed(1)
        engine: Any = PlainEngine(Tiny(), AdamW())
        steps = [[[row]] for row in range(count)]
        told = Updater(engine, Causal(), 0).run(batch, steps, Spoilt(), learning_rates=rates, skipping=skipping)
        (state,) = engine._optimizer.state.values()
        return engine.module.table.weight.detach(), told, state["step"]

    skipping = Skipping(most=1)
    spoilt, told, count = after([1, token, 2], [0.1, 0.2, 0.3], skipping)
    clean, _, clean_count = after([1, 2], [0.1, 0.3], Skipping())
    assert torch.equal(spoilt, clean)
    assert count == clean_count == 2
    assert [metrics["learning_rate"] for metrics in told] == [0.1, 0.2, 0.3]
    assert skipping.reasons == ["", "the loss is inf" if token == 6 else "gradient norm is nan", ""]
    after([1, token, token], [0.1] * 3, Skipping(most=1))
    with pytest.raises(Diverged, match=r"as in the batch before it \(recovery.max_skipped_steps\)"):
        after([token, 1], [0.1] * 2, Skipping(most=1, before=1))


class Flat:
    """Shapes nothing, and adds the squares of all weights to the loss."""

    penalty_metric, left_metric = "penalty", "left"

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def require_room(self, total_steps: int, role: str) -> None:
        pass

    def begin(self, step: int) -> None:
        pass

    def penalty(self) -> Tensor:
        return sum((parameter.square().sum() for parameter in self._module.parameters()), torch.zeros(()))

    def cut(self, step: int, total_steps: int) -> float:
        return 1.0


def test_steps_that_are_left_out_for_different_reasons_have_the_same_metrics(alone: None) -> None:
    """Or the means of an update of which all steps are left out would miss one."""
    tokens = Ragged.of([np.array([1, 2, 3])] * 2, np.int32)
    batch = Batch({
        "prompt_ids": tokens, "response_ids": tokens, "unit": np.arange(2), "sample": np.arange(2),
        "first": np.array([7, 6], np.float32),
    })  # fmt: skip
    module, skipping = Tiny(), Skipping(most=2)
    engine: Any = PlainEngine(module, AdamW())
    updater = Updater(engine, Causal(), 0, shaping=Flat(module))
    told = updater.run(batch, [[[0]], [[1]]], Spoilt(), learning_rates=[0.1] * 2, skipping=skipping)
    assert skipping.reasons == ["gradient norm is nan", "the loss is inf"]
    assert told[0].keys() == told[1].keys()
    assert told[0]["penalty"] == told[1]["penalty"] == float(module.table.weight.detach().square().sum())


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
    assert sums.reduced({"tokens": 7.0}) == {
        "loss": loss, "kl": kl / 7.0, "least": float(rows[:, 2].min()), "most": float(rows[:, 3].max())
    }  # fmt: skip
