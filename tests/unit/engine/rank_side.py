"""What the ranks of a test's group do. Everything returned is plain numpy, so that it travels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from distft.common.seeding import restore_rng_state, rng_state, seed_everything
from distft.config.models import Engine as EngineConfig
from distft.config.models import Model
from distft.config.training import Optimizer
from distft.engine import process_group
from distft.engine.engine import Engine, NonFiniteGradients
from distft.models.load import load_causal

LENGTH = 12
VOCABULARY = 96


@dataclass(frozen=True)
class Setup:
    """One engine over the tiny model in ``folder``."""

    folder: str
    stage: int = 3
    dtype: str = "float32"
    optimizer: Optimizer | None = field(default_factory=lambda: Optimizer(learning_rate=1e-2, weight_decay=0.1))
    engine: dict[str, Any] = field(default_factory=dict)
    checkpointing: bool = False
    dropout: bool = False

    def model(self) -> Model:
        config = EngineConfig(zero_stage=self.stage, persistence_threshold=0, **self.engine)
        return Model(path=self.folder, dtype=self.dtype, engine=config, gradient_checkpointing=self.checkpointing)

    def build(self) -> Engine:
        model = self.model()
        with Engine.sharded_loading(model.engine, model.dtype):
            module = load_causal(self.folder, model, dropout=self.dropout)
        return Engine(module, model.engine, self.dtype, self.optimizer)


def sequence(number: int) -> torch.Tensor:
    """Tokens ``[1, LENGTH]`` of the sample of that number."""
    return torch.randint(0, VOCABULARY, (1, LENGTH), generator=torch.Generator().manual_seed(number))


def micro_loss(engine: Engine, samples: Sequence[int], num_tokens: int) -> torch.Tensor:
    """The samples' share of the step's mean loss; no samples are dummy work that weighs nothing."""
    ids = torch.cat([sequence(sample) for sample in samples] or [sequence(0)])
    select = torch.cat([torch.arange(LENGTH - 1) + row * LENGTH for row in range(len(ids))])
    logits = engine.forward(input_ids=ids, select=select)
    loss = F.cross_entropy(logits.float(), ids[:, 1:].reshape(-1), reduction="sum") / num_tokens
    return loss if samples else loss * 0.0


def weights(engine: Engine) -> dict[str, np.ndarray]:
    """All parameters, whole."""
    return {name: tensor.detach().float().numpy().copy() for name, tensor in engine.full_tensors()}


def take_steps(engine: Engine, rank: int, steps: Sequence[Any], rate: float = 1e-2) -> list[float]:
    """Optimizer steps; ``steps[i][rank]`` are the rank's micro-batches of sample numbers. Returns the norms."""
    norms = []
    for step in steps:
        num_tokens = (LENGTH - 1) * sum(len(micro) for micros in step for micro in micros)
        for samples in step[rank]:
            engine.backward(micro_loss(engine, samples, num_tokens))
        norms.append(engine.step(rate))
    return norms


def train(rank: int, world: int, setup: Setup, steps: Sequence[Any]) -> dict[str, Any]:
    """Trains and reports norms, weights and elements held."""
    engine = setup.build()
    norms = take_steps(engine, rank, steps)
    held = engine.held()
    return {"norms": norms, "weights": weights(engine), "held": held}


def train_past_nan(rank: int, world: int, setup: Setup, steps: Sequence[Any]) -> dict[str, Any]:
    """As ``train``, with a step in the middle whose loss is NaN on the last rank only."""
    engine = setup.build()
    take_steps(engine, rank, steps[:1])
    before = weights(engine)
    loss = micro_loss(engine, [1], LENGTH - 1)
    engine.backward(loss * (float("nan") if rank == world - 1 else 1.0))
    raised = False
    try:
        engine.step(1e-2)
    except NonFiniteGradients:
        raised = True
    after = weights(engine)
    take_steps(engine, rank, steps[1:])
    return {"raised": raised, "before": before, "after": after, "weights": weights(engine)}


def held_between(rank: int, world: int, setup: Setup) -> dict[str, Any]:
    """What is held after loading, after a forward, after a backward, after a step and after an evaluation."""
    engine = setup.build()
    found = {"loaded": engine.held()}
    with torch.no_grad():
        micro_loss(engine, [1], 1)
    found["evaluated"] = engine.held()
    if engine.trained:
        engine.backward(micro_loss(engine, [1], 1))
        found["backward"] = engine.held()
        found["whole_gradients"] = sum(p.grad.numel() for p in engine.module.parameters() if p.grad is not None)
        engine.step(1e-2)
        found["stepped"] = engine.held()
    return found


def save_and_go_on(rank: int, world: int, setup: Setup, folder: str, first: Any, then: Any) -> dict[str, Any]:
    """Trains, saves, trains on; then loads into a fresh engine and trains on again."""
    seed_everything(100 + rank)
    engine = setup.build()
    take_steps(engine, rank, first)
    engine.save(Path(folder))
    kept = rng_state()
    process_group.barrier()
    norms = take_steps(engine, rank, then)
    undisturbed = weights(engine)
    seed_everything(7)
    fresh = setup.build()
    fresh.load(Path(folder))
    restore_rng_state(kept)
    repeated = take_steps(fresh, rank, then)
    return {"norms": (norms, repeated), "weights": (undisturbed, weights(fresh))}


def load_missing(rank: int, world: int, setup: Setup, folder: str) -> str:
    """The error of a checkpoint that is not there."""
    engine = setup.build()
    try:
        engine.load(Path(folder))
    except FileNotFoundError as error:
        return str(error)
    return ""


def allow_float16(rank: int, world: int) -> None:
    """Lets DeepSpeed take float16 on a CPU without instructions for it: slow, but the same numbers."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True
