"""A model that learns to embed on the ranks of a group, for ``test_text_embedding``."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from distft.batches import Batch, Ragged
from distft.config.adapters.lora import Lora
from distft.config.models import Engine, Model
from distft.config.optimizers.adamw import AdamW
from distft.workers.model_worker import ModelWorker
from distft.workers.spec import RoleSpec
from tests.unit.models.encoders import VOCABULARY

LOSS, RATE = "distft.algorithms.losses.contrastive:Contrastive", 1e-3
EPS = 1e-3  # gradients of 20 are exact to 2e-6: of what is as small as that a smaller one would make steps
LENGTHS = (5, 9, 4, 12, 12, 7, 3, 6, 8, 5)
UNITS = (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
# Micro-batches by number of ranks and rank; with two, one rank has less to do, and an empty one.
SAMPLES = {1: [[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]], 2: [[[2, 3, 4], [0, 1], [5, 6]], [[7, 8, 9], [], []]]}


def rows() -> list[list[int]]:
    """The ids of every text."""
    rng = np.random.default_rng(9)
    return [rng.integers(5, VOCABULARY, length).tolist() for length in LENGTHS]


def batch(samples: list[int]) -> Batch:
    """The columns of these samples."""
    return Batch({
        "sample": np.array(samples, np.int64), "unit": np.array([UNITS[sample] for sample in samples], np.int64),
        "prompt_ids": Ragged.of([[] for _ in samples], np.int32),
        "response_ids": Ragged.of([rows()[sample] for sample in samples], np.int32),
    })  # fmt: skip


def learn(
    rank: int, world: int, folder: str, out: str, stage: Literal[0, 2, 3], pooling: str, lora: Lora | None = None
) -> dict[str, Any]:
    """Steps over the rows, and the result in ``out``; whether what reads its checkpoint ends a step alike."""
    micro = SAMPLES[world][rank]
    mine = batch([sample for samples in micro for sample in samples])
    parameters = {"temperature": 0.2, "pooling": pooling}
    one = worker(rank, world, folder, stage, lora)
    history = one.update(LOSS, parameters, 0, 10, [micro], batch=mine)[0].steps
    one.save(out + "-kept")
    other = worker(rank, world, folder, stage, lora)
    other.load(out + "-kept")
    ends = [list(each.update(LOSS, parameters, 1, 10, [micro], batch=mine)[0].steps) for each in (one, other)]
    measured = one.evaluate(LOSS, parameters, micro, batch=mine)[0]
    one.export(out)
    return {"history": [*history, *ends[0]], "same": ends[0] == ends[1], "measured": measured}


def worker(rank: int, world: int, folder: str, stage: Literal[0, 2, 3], lora: Lora | None) -> ModelWorker:
    """A policy of that folder, ready to learn."""
    torch.manual_seed(0)
    engine = Engine(persistence_threshold=0, zero_stage=stage)
    model = Model(path=folder, dtype="float32", engine=engine, peft=lora)
    optimizer = AdamW(learning_rate=RATE, eps=EPS, schedule="constant", max_grad_norm=100.0)
    spec = RoleSpec("policy", model, "text_embedding", optimizer, longest=max(LENGTHS))
    found = ModelWorker(spec=spec, rank=rank, world_size=world)
    found.setup(("", 0), folder, False)
    found.check_export()
    return found
