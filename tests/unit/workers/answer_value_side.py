"""A value model of an encoder-decoder on the ranks of a group, for ``test_answer_values``; plain torch beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from distft.batches import Batch, Ragged
from distft.config.adapters.lora import Lora
from distft.config.models import Engine, Model, RewardModel
from distft.config.optimizers.adamw import AdamW
from distft.workers.model_worker import ModelWorker
from distft.workers.spec import RoleSpec
from tests.reference.ppo_reference import value_terms
from tests.unit.workers.family_side import LENGTHS, LONGEST, SAMPLES, rows

RATE, STEPS, CLIP = 1e-2, 3, 0.2
LOSS = "distft.algorithms.losses.ppo:PpoValue"


def targets() -> tuple[list[list[float]], list[list[float]]]:
    """Of every sample the old values and the returns of its tokens."""
    rng = np.random.default_rng(5)
    one, other = (rng.normal(0, 0.5, sum(answer for _, answer in LENGTHS)).astype(np.float32) for _ in range(2))
    ends = np.cumsum([answer for _, answer in LENGTHS])[:-1]
    return tuple([part.tolist() for part in np.split(column, ends)] for column in (one, other))  # type: ignore[return-value]


def worker(
    rank: int, world: int, folder: str, stage: int, lora: Lora | None = None, *, role: str = "value",
    finished: bool = False,
) -> ModelWorker:  # fmt: skip
    """A value or reward model from that folder, ready to learn; ``finished``: one that only answers."""
    torch.manual_seed(0)
    engine = Engine(persistence_threshold=0, zero_stage=stage)  # type: ignore[arg-type]
    kind = RewardModel if role == "reward" else Model
    model = kind(path=folder, dtype="float32", engine=engine, peft=lora)
    optimizer = None if finished else AdamW(learning_rate=RATE)
    found = ModelWorker(spec=RoleSpec(role, model, "scalar", optimizer, longest=LONGEST), rank=rank, world_size=world)
    found.setup(("", 0), folder, not finished)
    if not finished:
        found.check_export()
    return found


def batch(samples: list[int]) -> Batch:
    """The columns of these samples that a value model learns from."""
    values, returns = targets()
    columns: dict[str, Any] = {"sample": np.array(samples, np.int64), "unit": np.array(samples, np.int64)}
    for at, name in enumerate(("prompt_ids", "response_ids")):
        columns[name] = Ragged.of([rows()[sample][at] for sample in samples], np.int32)
    for name, column in (("values", values), ("returns", returns)):
        columns[name] = Ragged.of([column[sample] for sample in samples], np.float32)
    return Batch(columns)


def value(rank: int, world: int, folder: str, out: str, stage: int, lora: Lora | None = None) -> dict[str, Any]:
    """What it says before every token and behind all of them, learns in ``STEPS`` steps, and says then; its export in
    ``out``; and whether one that reads its checkpoint says the same to the last bit."""
    one, micro = worker(rank, world, folder, stage, lora), SAMPLES[world][rank]
    mine = batch([sample for samples in micro for sample in samples])

    def said(of: ModelWorker) -> dict[int, list[float]]:
        before = of.forward("said", micro, batch=mine)[1].ragged("said")
        behind = of.forward("said", micro, batch=mine, reads="last")[1].dense("said")
        return {int(one): [*before[row].tolist(), float(behind[row])] for row, one in enumerate(mine.dense("sample"))}

    found: dict[str, Any] = {"before": said(one)}
    found["steps"] = one.update(LOSS, {"value_clip": CLIP}, 0, STEPS, [micro] * STEPS, batch=mine)[0].steps
    found["after"] = said(one)
    one.save(out + "-kept")
    one.export(out)
    other = worker(rank, world, folder, stage, lora)
    other.load(out + "-kept")
    found["same"] = said(other) == found["after"]
    return found


def read(folder: Path | str) -> Any:
    """What transformers reads there."""
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, num_labels=1).eval()


def plain_values(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """``[len(response) + 1]``: transformers' head on every state of its decoder, the row alone."""
    told = torch.tensor([[model.config.decoder_start_token_id, *response]])
    states = model.base_model(input_ids=torch.tensor([prompt]), decoder_input_ids=told).last_hidden_state
    found: torch.Tensor = model.classification_head(states)[0, :, 0]
    return found


def plainly(folder: str) -> tuple[list[float], Any]:
    """The losses of the same steps and the model after them, by transformers and torch alone, a row at a time."""
    model, (old, returns) = read(folder), targets()
    adam = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    losses = []
    for _ in range(STEPS):
        adam.zero_grad()
        terms = [
            value_terms(plain_values(model, *row)[:-1], torch.tensor(old[at]), torch.tensor(returns[at]), CLIP)[0]
            for at, row in enumerate(rows())
        ]
        loss = torch.cat(terms).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        losses.append(float(loss.detach()))
    return losses, model
