"""What the ranks do for ``test_encoders``."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from distft.batches import Batch, Ragged
from distft.config.adapters.adapter import Adapter
from distft.config.models import Engine, Model
from distft.config.optimizers.adamw import AdamW
from distft.models.adapters.adapt import is_adapter
from distft.workers.model_worker import ModelWorker
from distft.workers.spec import RoleSpec
from tests.unit.models.encoders import VOCABULARY

LABELS = ("ant", "bee", "cow")
_LENGTHS = ((6, 4), (6, 12), (11, 7), (11, 18), (0, 5), (0, 9))  # of a prompt and of each of its two answers
_SAMPLES = {1: [[[0, 1, 2, 3], [4, 5]]], 2: [[[0, 1], [4, 5]], [[2, 3], []]]}  # by number of ranks and rank: pairs


def rows() -> list[tuple[list[int], list[int]]]:
    """Prompt and response of every sample."""
    rng = np.random.default_rng(2)
    return [(rng.integers(5, VOCABULARY, one).tolist(), rng.integers(5, VOCABULARY, other).tolist())
            for one, other in _LENGTHS]  # fmt: skip


def _batch_of(samples: list[int]) -> Batch:
    chosen = [rows()[sample] for sample in samples]
    return Batch({
        "sample": np.array(samples, np.int64), "unit": np.array(samples, np.int64) // 2,
        "prompt_ids": Ragged.of([prompt for prompt, _ in chosen], np.int32),
        "response_ids": Ragged.of([response for _, response in chosen], np.int32),
        "label": np.array(samples, np.int64) % 3,
    })  # fmt: skip


def live(
    rank: int, world: int, folder: str, out: str, stage: Literal[0, 2, 3], labels: tuple[str, ...] = (),
    adapter: Adapter | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Loads, scores, updates, scores again and exports to ``out``."""
    torch.manual_seed(0)
    engine = Engine(persistence_threshold=0, zero_stage=stage)
    model = Model(path=folder, dtype="float32", peft=adapter, engine=engine)
    spec = RoleSpec("reward", model, "scalar", AdamW(learning_rate=1e-2), longest=40, labels=labels)
    worker = ModelWorker(spec=spec, rank=rank, world_size=world)
    worker.setup(("", 0), folder, True)
    worker.check_export()
    micro_batches = _SAMPLES[world][rank]
    batch = _batch_of([sample for micro in micro_batches for sample in micro])

    def scored() -> dict[int, float]:
        found = worker.forward("score", micro_batches, batch=batch, reads="last")[1]
        return dict(zip(found.dense("sample").tolist(), found.dense("score").tolist(), strict=True))

    name = "classification:Classification" if labels else "reward:Reward"
    loss, parameters = f"distft.algorithms.losses.{name}", {"labels": labels} if labels else {}
    before = scored()
    steps = 4 if labels else 1
    history = worker.update(loss, parameters, 0, 100, [micro_batches] * steps, batch=batch)[0].steps
    measured = worker.evaluate(loss, parameters, micro_batches, batch=batch)[0]
    trained = [one for one, parameter in worker._engine.module.model.named_parameters() if parameter.requires_grad]
    found = {
        "before": before, "after": scored(), "history": history, "measured": measured,
        "update": {key: history[0][key] for key in ("loss", "grad_norm")},
        "whole": [one for one in trained if not is_adapter(one)],
    }  # fmt: skip
    worker.export(out)
    return found
