"""Samples and texts side by side, and an update over both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from distft.algorithms.losses.ppo import PpoPolicy
from distft.algorithms.losses.ppo_ptx import PpoPtx
from distft.algorithms.losses.sft import Sft
from distft.batches import Batch, Ragged
from distft.config.optimizers.adamw import AdamW
from distft.models.families.causal import Causal
from distft.workers.ptx import with_contents, with_texts
from distft.workers.update import Updater
from tests.harness.plain_engine import PlainEngine
from tests.unit.workers.test_update import Tiny


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def samples() -> Batch:
    """Three responses, and columns that their loss does not read."""
    responses = Ragged.of([[1, 2], [3], [4, 5, 6]], np.int32)
    return Batch({
        "prompt_ids": Ragged.of([[7], [7, 7], [6]], np.int32), "response_ids": responses,
        "old_logprobs": Ragged.split(np.full(6, -2.0, np.float32), responses.lengths),
        "advantages": Ragged.split(np.linspace(-1, 1, 6, dtype=np.float32), responses.lengths),
        "score": np.zeros(3, np.float32), "sample": np.arange(3), "unit": np.arange(3),
    })  # fmt: skip


def texts() -> Batch:
    """Two texts, the first token of the first no target."""
    return Batch({
        "prompt_ids": Ragged.of([[], [5]], np.int32), "response_ids": Ragged.of([[1, 3], [2, 2]], np.int32),
        "response_mask": Ragged.of([[0, 1], [1, 1]], np.uint8), "sample": np.arange(2), "unit": np.arange(2),
    })  # fmt: skip


def test_an_environments_words_stay_masked() -> None:
    masked = samples().with_columns(response_mask=Ragged.of([[1, 0], [1], [0, 1, 1]], np.uint8))
    both = with_texts(masked, texts())
    assert [both.ragged("response_mask")[row].tolist() for row in range(4)] == [[1, 0], [1], [0, 1, 1], [0, 1]]


def test_texts_stand_behind_the_samples() -> None:
    both = with_texts(samples(), texts())
    assert both.dense("sample").tolist() == both.dense("unit").tolist() == [0, 1, 2, 3, 4]
    assert both.dense("ptx").tolist() == [0, 0, 0, 1, 1]
    assert [both.ragged("response_ids")[row].tolist() for row in (2, 3, 4)] == [[4, 5, 6], [1, 3], [2, 2]]
    assert [both.ragged("response_mask")[row].tolist() for row in (2, 3)] == [[1, 1, 1], [0, 1]]
    assert both.ragged("old_logprobs")[0].tolist() == [-2, -2]
    assert both.ragged("old_logprobs")[4].tolist() == both.ragged("advantages")[4].tolist() == [0, 0]
    assert set(both.columns) == {
        "prompt_ids", "response_ids", "response_mask", "old_logprobs", "advantages", "ptx", "sample", "unit"
    }  # fmt: skip


def test_texts_went_to_no_experts() -> None:
    routed = Ragged.of([np.ones((2, 4)), np.ones((2, 4)), np.ones((3, 4))], np.uint8)
    both = with_texts(samples().with_columns(routed_experts=routed), texts()).ragged("routed_experts")
    assert both.lengths.tolist() == [2, 2, 3, 0, 0]
    assert both.values.shape == (7, 4)


def measured(batch: Batch, loss: Any, micro_batches: list[list[int]]) -> dict[str, float]:
    torch.manual_seed(2)
    engine: Any = PlainEngine(Tiny(), AdamW())
    [metrics] = Updater(engine, Causal(), 0).run(batch, [micro_batches], loss)
    return metrics


def test_each_part_is_averaged_over_its_own(alone: None) -> None:
    """However they are divided into micro-batches: PPO's of the samples alone, the texts' as SFT has it."""
    ppo = measured(samples(), PpoPolicy(), [[0, 1, 2]])
    sft = measured(texts(), Sft(), [[0, 1]])
    for split in ([[0, 1, 2, 3, 4]], [[0, 3], [], [4], [1, 2]]):
        found = measured(with_texts(samples(), texts()), PpoPtx(ptx_coef=2.0), split)
        assert found["ptx/loss"] == pytest.approx(sft["loss"], rel=1e-6)
        assert found["loss"] == pytest.approx(ppo["loss"] + 2 * sft["loss"], rel=1e-6)
        assert found["loss/policy_avg"] == pytest.approx(ppo["loss/policy_avg"], rel=1e-6)


def test_what_is_said_of_contents_can_be_changed() -> None:
    from distft.data.dataset import Datasets, Preparing

    done: Any = object()

    def work() -> Iterator[Any]:
        yield Preparing("reading")
        yield Preparing("", {"a": "1"})
        return done

    kept: dict[str, str] = {}
    said = []

    def read() -> Iterator[Any]:
        found: Datasets = yield from with_contents(work(), kept.update)  # type: ignore[arg-type]
        said.append(found)

    assert [one.contents for one in read()] == [None, None]
    assert (kept, said) == ({"a": "1"}, [done])
