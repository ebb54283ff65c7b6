"""An encoder-decoder on the ranks of a group, for ``test_encoder_decoders``; and plain transformers beside it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import AutoModelForSeq2SeqLM

from distft.algorithms.logprobs import token_logprobs
from distft.algorithms.losses.build import build_loss
from distft.batches import Batch, Ragged
from distft.common.addresses import found_at
from distft.config.adapters.adapter import Adapter
from distft.config.models import Engine, Model
from distft.config.optimizers.adamw import AdamW
from distft.models.families.family import find_family
from distft.workers.collate import collate
from distft.workers.model_worker import ModelWorker
from distft.workers.spec import RoleSpec
from tests.unit.models import tiny

LONGEST, RATE, STEPS = 40, 1e-2, 3
LENGTHS = (
    (5, 4),
    (5, 12),
    (3, 7),
    (3, 1),
    (12, 9),
    (12, 3),
    (6, 3),
    (6, 8),
)  # prompt, response; pairs beside each other
MICRO = {1: [[[0, 1, 2, 3, 4, 5, 6, 7]]], 2: [[[0, 1], [4, 5]], [[2, 3, 6, 7], []]]}


def batch() -> Batch:
    """Four pairs, with everything that a preference method reads beside their tokens."""
    rows = [row.tolist() for row in tiny.rows(tuple(sum(pair) for pair in LENGTHS), seed=4)]
    prompts = [row[: LENGTHS[at - at % 2][0]] for at, row in enumerate(rows)]
    prompts = [prompts[at - at % 2] for at in range(len(rows))]
    columns: dict[str, Any] = {
        "sample": np.arange(len(rows)),
        "unit": np.arange(len(rows)) // 2,
        "label": np.array([1, 0] * (len(rows) // 2), np.uint8),
        "baseline": np.full(len(rows), 0.3, np.float32),
        "prompt_ids": Ragged.of(prompts, np.int32),
        "response_ids": Ragged.of([row[LENGTHS[at][0] :] for at, row in enumerate(rows)], np.int32),
    }
    return Batch(columns)


def worker(rank: int, world: int, folder: str, *, stage: int, warmup_steps: int = 0, **model: Any) -> ModelWorker:
    """A policy of that folder, ready to learn."""
    torch.manual_seed(0)
    engine = Engine(persistence_threshold=0, zero_stage=stage)  # type: ignore[arg-type]
    said = Model(path=folder, engine=engine, **{"dtype": "float32", **model})
    optimizer = AdamW(learning_rate=RATE, warmup_steps=warmup_steps)
    spec = RoleSpec("policy", said, "causal", optimizer, longest=LONGEST)
    found = ModelWorker(spec=spec, rank=rank, world_size=world)
    found.setup(("", 0), folder, False)
    found.check_export()
    return found


def learn(
    rank: int,
    world: int,
    folder: str,
    out: str,
    loss: str,
    keys: Mapping[str, Any],
    stage: int,
    adapter: Adapter | None,
) -> list[dict[str, float]]:
    """Steps of a method over the pairs, its start the reference; the result in ``out``. The metrics of the steps."""
    one, samples = worker(rank, world, folder, stage=stage, peft=adapter), batch()
    micro = MICRO[world][rank]
    mine = samples.take(sorted(sample for samples_of in micro for sample in samples_of))
    reference = one.forward("ref_logprobs", micro, batch=mine, adapters=adapter is None)[1]
    mine = mine.with_columns(ref_logprobs=reference.ragged("ref_logprobs"))
    steps = [dict(one.update(loss, keys, at, STEPS, [micro], batch=mine)[0].steps[0]) for at in range(STEPS)]
    one.export(out)
    return steps


def kept(rank: int, world: int, folder: str, out: str, stage: int, adapter: Adapter | None = None) -> bool:
    """A step at a rate of zero, a checkpoint, and ``out``, which another exports that has read it. Whether both then
    end a step that counts bit for bit the same."""
    micro = MICRO[world][rank]
    mine = batch().take(sorted(sample for samples in micro for sample in samples))
    one = worker(rank, world, folder, stage=stage, warmup_steps=1, peft=adapter)
    one.update("distft.algorithms.losses.sft:Sft", {}, 0, 2, [micro], batch=mine)
    one.save(out + "-kept")
    other = worker(rank, world, folder, stage=stage, warmup_steps=1, peft=adapter)
    other.load(out + "-kept")
    other.export(out)
    ends = []
    for each in (one, other):
        each.update("distft.algorithms.losses.sft:Sft", {}, 1, 2, [micro], batch=mine)
        ends.append(each.forward("logprobs", micro, batch=mine)[1].ragged("logprobs").values)
    return bool(np.array_equal(*ends))


def plainly(
    folder: str, loss: str, keys: Mapping[str, Any], prompted: torch.Tensor | None = None
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses of the same steps, and the weights after them, by transformers and torch alone: whole batch at once,
    labels, AdamW. ``prompted``: virtual tokens, which PEFT trains in the place of the weights."""
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    if prompted is not None:
        told = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=len(prompted))
        model = get_peft_model(model, told)
        model.prompt_encoder["default"].embedding.weight.data[: len(prompted)] = prompted
    samples, family, computed = batch(), find_family("seq2seq"), build_loss(found_at(loss), dict(keys))
    columns = [*computed.columns, *(name for name in computed.optional_columns if name in samples)]
    chosen = [name for name in columns if name != "ref_logprobs"]
    micro = collate(family, samples, range(len(samples)), chosen, tiny.PAD, torch.device("cpu"))

    def outputs(wanted: Any) -> dict[str, torch.Tensor]:
        ids = micro.tensors
        logits = model(
            input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], labels=ids["answer_ids"]
        ).logits
        return token_logprobs(logits.flatten(0, 1)[micro.select], micro.targets, outputs=wanted)

    base = nullcontext() if prompted is None else model.disable_adapter()
    with torch.no_grad(), base:
        micro.loss.columns["ref_logprobs"] = outputs(["logprobs"])["logprobs"]  # type: ignore[index]
    trained = [one for one in model.parameters() if one.requires_grad]
    matrices = [one for one in trained if one.dim() >= 2]
    rest = [one for one in trained if one.dim() < 2]
    adam = torch.optim.AdamW([*matrices, *rest], lr=RATE, weight_decay=0.0)
    denominators = {"tokens": float(len(micro.targets)), "sequences": 8.0, "units": 4.0}
    losses = []
    for _ in range(STEPS):
        adam.zero_grad()
        result = computed(outputs(computed.outputs), micro.loss, denominators)
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        losses.append(float(result.loss.detach()))
    return losses, {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """What transformers reads there."""
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    return {name: one.detach() for name, one in model.named_parameters()}
