"""A model's whole life on the ranks of a group, for ``test_families``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from distft.batches import Batch, Ragged
from distft.config.adapters.adapter import Adapter
from distft.config.models import Engine, Model, Quantization
from distft.config.optimizers.adamw import AdamW
from distft.rollout.generator import Sampling
from distft.workers.generator_worker import GeneratorWorker
from distft.workers.spec import RoleSpec
from tests.unit.models import tiny

LENGTHS = ((5, 4), (9, 12), (3, 7), (12, 18), (6, 3))  # prompt, response
NEW_TOKENS = 6
LONGEST = 30
SAMPLES = {1: [[[0, 1, 2], [3, 4]]], 2: [[[0, 1], [2]], [[3], [4]]]}  # micro-batches by number of ranks and rank


def rows() -> list[tuple[list[int], list[int]]]:
    """Prompt and response of every sample."""
    whole = [row.tolist() for row in tiny.rows(tuple(sum(pair) for pair in LENGTHS), seed=4)]
    return [(row[:prompt], row[prompt:]) for row, (prompt, _) in zip(whole, LENGTHS, strict=True)]


def batch_of(samples: list[int]) -> Batch:
    """The columns of these samples."""
    chosen = [rows()[sample] for sample in samples]
    return Batch(
        {
            "sample": np.array(samples, np.int64),
            "unit": np.array(samples, np.int64),
            "prompt_ids": Ragged.of([prompt for prompt, _ in chosen], np.int32),
            "response_ids": Ragged.of([response for _, response in chosen], np.int32),
        }
    )


def _by_sample(batch: Batch, column: str) -> dict[int, list[float]]:
    values = batch.ragged(column)
    return {int(sample): values[row].tolist() for row, sample in enumerate(batch.dense("sample"))}


def live(
    rank: int, world: int, folder: str, out: str, adapter: Adapter | None = None,
    quantization: Quantization | None = None, *, shared_by: int = 1, checkpointing: bool = False,
    packed: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Loads at ZeRO-3, reads, generates, updates, reads again and exports to ``out``: what a policy of PPO does.
    ``shared_by`` ranks compute the same rows; ``packed`` ones are in one."""
    torch.manual_seed(0)
    engine = Engine(persistence_threshold=0, zero_stage=3, sequence_parallel=shared_by, packed=packed)
    model = Model(
        path=folder, dtype="float32", peft=adapter, quantization=quantization, engine=engine,
        gradient_checkpointing=checkpointing,
    )  # fmt: skip
    spec = RoleSpec("policy", model, "causal", AdamW(learning_rate=1e-2), longest=LONGEST)
    worker = GeneratorWorker(spec=spec, rank=rank, world_size=world)
    worker.setup(("", 0), folder, False)
    worker.check_export()
    micro_batches = SAMPLES[world // shared_by][rank // shared_by]
    batch = batch_of([sample for micro in micro_batches for sample in micro])
    widths: list[int] = []
    embedding: Any = worker._engine.module.model.get_input_embeddings()
    looking = embedding.register_forward_pre_hook(lambda _, given: widths.append(given[0].shape[1]))
    found = {"before": _by_sample(worker.forward("logprobs", micro_batches, batch=batch)[1], "logprobs")}
    looking.remove()
    found["widths"] = widths
    worker.sync_weights(0)
    made = worker.generate(Sampling(NEW_TOKENS), 1, 0, micro_batches, batch=batch)[1]
    found["responses"] = _by_sample(made, "response_ids")
    found["sampled"] = _by_sample(made, "sampled_logprobs")
    report = worker.update("distft.algorithms.losses.sft:Sft", {}, 0, 1, [micro_batches], batch=batch)[0].steps[0]
    found["update"] = {name: report[name] for name in ("loss", "grad_norm")}
    found["after"] = _by_sample(worker.forward("logprobs", micro_batches, batch=batch)[1], "logprobs")
    worker.export(out)
    return found
