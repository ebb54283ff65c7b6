"""What the ranks of a group do in the tests of generation from sharded weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from distft.config.models import Engine as EngineConfig
from distft.config.models import Model
from distft.config.optimizers.adamw import AdamW
from distft.engine.engine import Engine
from distft.models.families.causal import load_causal
from distft.models.load import DTYPES, plain_twin
from distft.rollout.generator import Sampling
from distft.rollout.hf import HfGenerator
from distft.rollout.sampling import uniforms
from distft.rollout.weight_sync import copy_weights
from tests.unit.models import tiny

STOPS = (tiny.EOS, 40, 41, 42)
SAMPLING = Sampling(max_new_tokens=10)
PROMPTS = [row.numpy().astype(np.int32) for row in tiny.rows((3, 9, 1, 6, 4))]


def build(folder: str, dtype: str, stage: int) -> Engine:
    config = EngineConfig(zero_stage=stage, persistence_threshold=0)  # type: ignore[arg-type]
    model = Model(path=folder, dtype=dtype, engine=config)  # type: ignore[arg-type]
    with Engine.sharded_loading(config, dtype):
        module = load_causal(folder, model, dropout=False)
    return Engine(module, config, dtype, AdamW(learning_rate=1e-3), model.rate_ratio)


def train_step(engine: Engine) -> float:
    """One optimizer step over the first prompts; the same on every rank."""
    ids = torch.from_numpy(PROMPTS[1].astype(np.int64))[None]
    logits = engine.forward(input_ids=ids, select=torch.arange(8)).float()
    engine.backward(torch.nn.functional.cross_entropy(logits, ids[0, 1:]) / torch.distributed.get_world_size())
    return engine.step(1e-3)


def generate(generator: HfGenerator, samples: list[int]) -> dict[int, tuple[list[int], list[float]]]:
    """Response and log-probs by sample."""
    numbers = [uniforms(1, 0, sample, SAMPLING.max_new_tokens) for sample in samples]
    batch = generator.generate([PROMPTS[sample] for sample in samples], numbers, SAMPLING)
    tokens, logprobs = batch.ragged("response_ids"), batch.ragged("sampled_logprobs")
    return {sample: (tokens[row].tolist(), logprobs[row].tolist()) for row, sample in enumerate(samples)}


def trainers_logprobs(engine: Engine, prompt: Any, response: list[int]) -> list[float]:
    """A teacher-forced pass through the engine; every rank must call it equally often."""
    ids = torch.tensor([[*prompt.tolist(), *response]])
    engine.train(mode=False)
    with torch.no_grad():
        logits = engine.forward(input_ids=ids, select=torch.arange(len(prompt) - 1, ids.shape[1] - 1)).float()
    engine.train(mode=True)
    found: list[float] = torch.log_softmax(logits, dim=-1)[torch.arange(len(response)), torch.tensor(response)].tolist()
    return found


def twin_and_sharded(rank: int, world: int, folder: str, dtype: str, stage: int) -> dict[str, Any]:
    """Trains a step, generates with a gathered twin and with the shards, and trains another step."""
    engine = build(folder, dtype, stage)
    norms = [train_step(engine)]
    module: Any = engine.module
    twin = plain_twin(module.model, DTYPES[dtype], torch.device("cpu"))
    copy_weights(engine.full_tensors(), dict(twin.named_parameters()))
    mine = list(range(rank, len(PROMPTS), world))
    options: dict[str, Any] = {"stop_tokens": STOPS, "pad_token": tiny.PAD}
    by_twin = generate(HfGenerator(twin, synchronized=False, **options), mine)
    by_shards = generate(HfGenerator(module.model, synchronized=world > 1, **options), mine)
    rounds = -(-len(PROMPTS) // world)
    trainer = {}
    for sample in (mine + mine)[:rounds]:
        trainer[sample] = trainers_logprobs(engine, PROMPTS[sample], by_twin[sample][0])
    norms.append(train_step(engine))
    return {"twin": by_twin, "shards": by_shards, "trainer": trainer, "norms": norms}


def only_train(rank: int, world: int, folder: str, dtype: str, stage: int) -> list[float]:
    """The same two steps without anything in between."""
    engine = build(folder, dtype, stage)
    return [train_step(engine), train_step(engine)]
