"""One update of a loss through the worker's own verb, on this process's layout, with its gradients kept.

The batch is made up, so that every loss sees what it should be indifferent to: prompts of no tokens, masked
tokens, a sample nothing is learned of, ratios beyond both clips.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from deepspeed.utils import safe_get_full_grad

from distft.algorithms.losses.build import build_loss
from distft.batches import Batch, Ragged
from distft.clients.model_group import ModelGroup, UpdateSpec
from distft.clients.samples import Samples
from distft.common.addresses import found_at
from distft.config.find_method import built_in_kinds, traits_of
from distft.config.method import PAIRS
from distft.config.models import Engine as EngineConfig
from distft.config.models import Model
from distft.config.optimizers.adamw import AdamW
from distft.experience.passes import Work, update_pass
from distft.groups.handles import DataRef, Part
from distft.models.families.family import find_family
from distft.models.families.table import FamilyName
from distft.models.load import start_head
from distft.models.tokenizer import load_tokenizer, num_tokens
from distft.workers.model_worker import ModelWorker
from distft.workers.spec import RoleSpec
from distft.workers.update import Updater
from tests.harness.jobs import LossesJob
from tests.harness.loss_cases import LOSSES
from tests.harness.plain_engine import PlainEngine
from tests.harness.spmd import SpmdGroup

RATE = 1e-3
NUM_SAMPLES = 14
VOCABULARY = 300
NAMED = 4  # tokens that a teacher names
TEMPERATURE = 0.9
SCALAR = ("reward", "rankings", "ppo_value", "process_reward")
# Answers to each prompt and their ranks, ties among them, where a loss learns from rankings.
TUPLES = ("rankings", "contrastive")  # whose units have unequal numbers of sequences
RANKED = [2, 2, 2, 3, 3, 2]
RANKS = [0, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1, 2, 0, 1]
EMBEDDERS = tuple(kind for kind in built_in_kinds() if traits_of(kind).embeds)
CLASSIFIERS = ("classification",)  # whose head is new
PAIRED = (*(kind for kind in built_in_kinds() if traits_of(kind).unit == PAIRS), "online_dpo")
# At Adam's usual eps of 1e-8 one weight of one loss (apo_zero), whose gradient is as small as that, ended 4 allowances
# apart: rounding, amplified. The gradients themselves are compared before the step.
OPTIMIZER = AdamW(learning_rate=RATE, max_grad_norm=1.0, eps=1e-6)


@dataclass(frozen=True)
class Split:
    """How a batch is cut up: the most padded tokens of a micro-batch, and whether its units come in another order."""

    max_tokens: int
    shuffled: bool


SPLITS = {"whole": Split(10**6, shuffled=False), "cut": Split(50, shuffled=True)}


@dataclass(frozen=True)
class Measured:
    """What one update did. ``norms``: of each parameter's gradient, before clipping."""

    num_micro_batches: int

    norms: dict[str, float]
    metrics: dict[str, float]
    weights: dict[str, torch.Tensor]


Results: TypeAlias = dict[str, Measured]  # "<case> <split>"


def case_name(name: str, parameters: Mapping[str, Any]) -> str:
    """A readable name of a loss and its parameters: the same of what a job's file made of them."""
    told = json.loads(json.dumps(dict(parameters)))
    return " ".join([name, *(f"{key}={value}" for key, value in told.items())])


def measure_losses(job: LossesJob, rank: int, num_ranks: int, store: tuple[str, int]) -> None:
    """Every case on every split; rank 0 saves the results."""
    results: Results = {}
    for name, parameters in job.cases:
        path = job.scalar if name in SCALAR else job.causal
        for label, split in SPLITS.items():
            measured = _sharded(name, parameters, split, path, rank, num_ranks, store, job.shared_by)
            results[f"{case_name(name, parameters)} {label}"] = measured
        if job.plain:
            results[f"{case_name(name, parameters)} plain"] = _plain(name, parameters, path)
    if rank == 0:
        torch.save(results, job.result)


def made_batch(name: str, *, shuffled: bool) -> Batch:
    """The batch of a loss; in another order its samples are numbered anew, as the data worker would."""
    rng = np.random.default_rng(7)
    prompts = [rng.integers(4, VOCABULARY, size) for size in rng.integers(1, 9, NUM_SAMPLES)]
    responses = [rng.integers(4, VOCABULARY, size) for size in rng.integers(1, 16, NUM_SAMPLES)]
    masks = [(rng.random(len(row)) < 0.8).astype(np.uint8) for row in responses]
    prompts[3], masks[3][0] = prompts[3][:0], 0  # nothing predicts the first token
    masks[6][:] = 0

    def column(mean: float, spread: float) -> Ragged:
        return Ragged.of([rng.normal(mean, spread, len(row)) for row in responses], np.float32)

    told = np.log(rng.dirichlet(np.ones(NAMED + 1), sum(map(len, responses)))).astype(np.float32)
    named = np.stack([rng.choice(VOCABULARY, NAMED, replace=False) for _ in told]).astype(np.int32)
    lengths = [len(row) for row in responses]
    sizes = RANKED if name in TUPLES else [2 if name in PAIRED else 1] * NUM_SAMPLES
    units = np.repeat(np.arange(len(sizes)), sizes)[:NUM_SAMPLES]
    batch = Batch(
        {
            "prompt_ids": Ragged.of(prompts, np.int32),
            "response_ids": Ragged.of(responses, np.int32),
            "response_mask": Ragged.of(masks, np.uint8),
            "old_logprobs": column(-6.0, 0.6),
            "ref_logprobs": column(-6.0, 0.6),
            "advantages": column(0.0, 1.0),
            "values": column(0.0, 0.5),
            "returns": column(0.3, 1.0),
            "margin": np.repeat(rng.random(NUM_SAMPLES // 2), 2).astype(np.float32),
            "label": (rng.random(NUM_SAMPLES) < 0.5).astype(np.uint8),
            "baseline": np.full(NUM_SAMPLES, 0.4, np.float32),
            "teacher_logprobs": Ragged.split(told, lengths),
            "teacher_ids": Ragged.split(named, lengths),
            "rank": np.array(RANKS, np.uint8),
            "step": Ragged.split(np.arange(sum(lengths), dtype=np.uint8) % 3 > 0, lengths),
            "unit": units,
            **({"ptx": np.arange(NUM_SAMPLES) % 3 == 1} if name == "ppo_ptx" else {}),
        }
    )
    if shuffled:
        order = np.random.default_rng(8).permutation(int(units[-1]) + 1)
        members = [np.flatnonzero(units == unit) for unit in order]
        batch = batch.take(np.concatenate(members))
        units = np.repeat(np.arange(len(members)), list(map(len, members)))
    return batch.with_columns(sample=np.arange(NUM_SAMPLES), unit=units)


def _sharded(
    name: str, parameters: Mapping[str, Any], split: Split, path: str, rank: int, num_ranks: int,
    store: tuple[str, int], shared_by: int,
) -> Measured:  # fmt: skip
    labels = tuple(parameters.get("labels", ()))
    spec = RoleSpec("policy", _model(path, shared_by), _family(name), OPTIMIZER, longest=64, labels=labels)
    worker = ModelWorker(spec=spec, rank=rank, world_size=num_ranks)
    worker.setup(store, path, name in CLASSIFIERS)
    engine = worker._engine
    norms: dict[str, float] = {}
    _before_step(engine, lambda: norms.update(_norms(engine.module, safe_get_full_grad)))
    batch = made_batch(name, shuffled=split.shuffled)
    lengths = batch.ragged("prompt_ids").lengths + batch.ragged("response_ids").lengths
    everyone = tuple(range(NUM_SAMPLES))
    samples = Samples(
        (DataRef((Part(batch, everyone),)),), tuple(lengths.tolist()), tuple(batch.dense("unit").tolist())
    )
    update = UpdateSpec(LOSSES[name], parameters, 0, 10, TEMPERATURE)
    group = ModelGroup(SpmdGroup("policy", worker, rank, num_ranks), shared_by=shared_by)
    work = Work()
    [metrics] = (
        update_pass(group, samples, [list(everyone)], update, split.max_tokens // shared_by, work).result().steps
    )
    weights = {key: tensor.detach().clone() for key, tensor in engine.full_tensors()}
    return Measured(work.schedules[0].num_micro_batches, norms, metrics, weights)


def _plain(name: str, parameters: Mapping[str, Any], path: str) -> Measured:
    """In plain torch, a unit at a time."""
    model = _model(path)
    family = find_family(_family(name), tuple(parameters.get("labels", ())))
    loaded = family.load(path, model, dropout=False, new_head=name in CLASSIFIERS)
    for number, (part, parameter) in enumerate(sorted(loaded.new_head.items())):
        start_head(parameter, number, part)
    engine: Any = PlainEngine(loaded.module, OPTIMIZER)
    norms: dict[str, float] = {}
    _before_step(engine, lambda: norms.update(_norms(engine.module, lambda parameter: parameter.grad)))
    batch = made_batch(name, shuffled=False)
    units = batch.dense("unit")
    step = [np.flatnonzero(units == unit).tolist() for unit in range(int(units.max()) + 1)]
    loss = build_loss(found_at(LOSSES[name]), dict(parameters))
    updater = Updater(engine, family, pad_token=0, num_tokens=num_tokens(load_tokenizer(path)))
    [metrics] = updater.run(batch, [step], loss, temperature=TEMPERATURE, learning_rates=[RATE])
    weights = {key: parameter.detach().clone() for key, parameter in engine.module.named_parameters()}
    return Measured(len(step), norms, metrics, weights)


def _family(name: str) -> FamilyName:
    if name in EMBEDDERS:
        return "text_embedding"
    return "scalar" if name in (*SCALAR, *CLASSIFIERS) else "causal"


def _model(path: str, shared_by: int = 1) -> Model:
    engine = EngineConfig(zero_stage=3, persistence_threshold=0, sequence_parallel=shared_by)
    return Model(path=path, dtype="float32", engine=engine)


def _before_step(engine: Any, look: Callable[[], None]) -> None:
    """Has ``look`` called when all gradients of a step are there."""
    step = engine.step

    def looked_at(learning_rate: float) -> float:
        look()
        return float(step(learning_rate))

    engine.step = looked_at


def _norms(module: torch.nn.Module, gradient: Callable[[Any], torch.Tensor | None]) -> dict[str, float]:
    norms = {}
    for name, parameter in module.named_parameters():
        found = gradient(parameter)
        norms[name] = 0.0 if found is None else float(found.double().norm())
    return norms
