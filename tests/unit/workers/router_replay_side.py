"""A mixture of experts on the ranks of a group: it answers, and learns twice from its answers. For
``test_router_replay``."""

from __future__ import annotations

from typing import Any, Literal

import torch

from distft.config.adapters.lora import Lora
from distft.config.models import Engine, Model
from distft.config.optimizers.adamw import AdamW
from distft.rollout.generator import Sampling
from distft.workers.generator_worker import GeneratorWorker
from distft.workers.spec import RoleSpec
from tests.unit.workers.family_side import LONGEST, NEW_TOKENS, batch_of

# Micro-batches by number of ranks and rank; a rank of two has one less to do, and makes a dummy.
SAMPLES = {1: [[[0, 1, 2], [3, 4]]], 2: [[[0, 1], [2]], [[3, 4], []]]}
SFT = "distft.algorithms.losses.sft:Sft"


def live(
    rank: int, world: int, folder: str, weights: Literal["gathered", "sharded"] = "gathered", *,
    checkpointing: bool = False, packed: bool = False, adapted: bool = False, replayed: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """At ZeRO-3; ``replayed`` False: it learns with the experts that its router then chooses."""
    torch.manual_seed(0)
    model = Model(
        path=folder, dtype="float32", engine=Engine(persistence_threshold=0, zero_stage=3, packed=packed),
        gradient_checkpointing=checkpointing, peft=Lora(r=4) if adapted else None,
    )  # fmt: skip
    spec = RoleSpec(
        "policy", model, "causal", AdamW(learning_rate=3e-2), longest=LONGEST,
        gathered_generation=weights == "gathered", router_replay=True,
    )  # fmt: skip
    worker = GeneratorWorker(spec=spec, rank=rank, world_size=world)
    worker.setup(("", 0), folder, False)
    worker.sync_weights(0)
    micro_batches = SAMPLES[world][rank]
    batch = batch_of([sample for micro in micro_batches for sample in micro])
    made = worker.generate(Sampling(NEW_TOKENS), 1, 0, micro_batches, batch=batch)[1]
    rows = made.rows_of_samples()
    made = made.take([rows[sample] for sample in batch.dense("sample").tolist()])
    kept = {name: made.columns[name] for name in ("response_ids", *(["routed_experts"] if replayed else []))}
    batch = batch.with_columns(**kept)

    def read() -> dict[int, list[float]]:
        column = worker.forward("logprobs", micro_batches, batch=batch)[1].ragged("logprobs")
        return {int(sample): column[row].tolist() for row, sample in enumerate(batch.dense("sample"))}

    before = read()
    steps = worker.update(SFT, {}, 0, 2, [micro_batches] * 2, batch=batch)[0].steps
    return {
        "before": before,
        "sampled": {
            int(s): made.ragged("sampled_logprobs")[row].tolist() for row, s in enumerate(made.dense("sample"))
        },
        "experts": {int(s): made.ragged("routed_experts")[row].tolist() for row, s in enumerate(made.dense("sample"))},
        "steps": [{name: step[name] for name in ("loss", "grad_norm", "routing/changed")} for step in steps],
        "after": read(),
    }
