"""An encoder that learns masked tokens on the ranks of a group, for ``test_masked_lm``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from distft.batches import Batch, Ragged
from distft.config.adapters.lora import Lora
from distft.config.models import Engine, Model
from distft.config.optimizers.adamw import AdamW
from distft.workers.model_worker import ModelWorker
from distft.workers.spec import RoleSpec
from tests.unit.models.encoders import VOCABULARY

RATE, STEPS = 1e-2, 3
# The bias of attention's keys changes nothing: its gradient is rounding, of which a smaller eps would make steps.
EPS = 1e-5
LENGTHS = (6, 17, 11, 24)
SAMPLES = {1: [[[0, 1, 2], [3]]], 2: [[[0], [3]], [[1, 2], []]]}  # micro-batches by number of ranks and rank


def rows() -> list[tuple[list[int], list[int], list[int]]]:
    """What is read, the text, and 1 for what is learned; at least a token of each."""
    rng, found = np.random.default_rng(6), []
    for length in LENGTHS:
        text = rng.integers(5, VOCABULARY, length)
        learned = (rng.random(length) < 0.3).astype(int)
        learned[2] = 1
        found.append((np.where(learned, 4, text).tolist(), text.tolist(), learned.tolist()))
    return found


def batch(samples: list[int]) -> Batch:
    """The columns of these samples."""
    columns: dict[str, Any] = {"sample": np.array(samples, np.int64), "unit": np.array(samples, np.int64)}
    kinds = (("prompt_ids", np.int32), ("response_ids", np.int32), ("response_mask", np.uint8))
    for at, (name, kind) in enumerate(kinds):
        columns[name] = Ragged.of([rows()[sample][at] for sample in samples], kind)
    return Batch(columns)


def learn(rank: int, world: int, folder: str, out: str, stage: int, lora: Lora | None = None) -> dict[str, Any]:
    """Steps over the rows, and the result in ``out``; whether what reads its checkpoint ends a step alike."""
    micro = SAMPLES[world][rank]
    mine = batch([sample for samples in micro for sample in samples])
    one = worker(rank, world, folder, stage, lora)
    history = one.update("distft.algorithms.losses.sft:Sft", {}, 0, STEPS, [micro] * STEPS, batch=mine)[0].steps
    one.save(out + "-kept")
    one.export(out)
    other = worker(rank, world, folder, stage, lora)
    other.load(out + "-kept")
    found = [each.forward("logprobs", micro, batch=mine)[1].ragged("logprobs").values for each in (one, other)]
    return {"losses": [step["loss"] for step in history], "same": bool(np.array_equal(*found))}


def worker(rank: int, world: int, folder: str, stage: int, lora: Lora | None) -> ModelWorker:
    """A policy of that folder, ready to learn."""
    torch.manual_seed(0)
    engine = Engine(persistence_threshold=0, zero_stage=stage)  # type: ignore[arg-type]
    model = Model(path=folder, dtype="float32", engine=engine, peft=lora)
    spec = RoleSpec("policy", model, "causal", AdamW(learning_rate=RATE, eps=EPS), longest=max(LENGTHS))
    found = ModelWorker(spec=spec, rank=rank, world_size=world)
    found.setup(("", 0), folder, False)
    found.check_export()
    return found
