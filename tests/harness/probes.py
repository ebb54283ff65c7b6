"""What a run does inside, written down while it runs, and four ways of breaking it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from distft.batches import Batch, concatenate
from distft.clients.asking import ask
from distft.clients.generator_group import Generated
from distft.clients.model_group import ModelGroup
from distft.controller import rl
from distft.evaluation.held_out import EVALUATION_ITERATION
from distft.experience.rollouts import Sampler
from distft.groups.handles import DataRef
from distft.workers import generator_worker
from distft.workers.update import Updater
from distft.workers.verbs import ModelVerbs

Tokens = list[list[int]]
COPY_WEIGHTS = "copy_weights"  # as the rank's generator knows it
ONE_STEP = "_step"  # of an update


@contextmanager
def rollouts_recorded() -> Iterator[list[Tokens]]:
    """The response tokens of each training iteration, by sample, as the loop gets them."""
    original = Sampler.generate
    found: list[Tokens] = []

    def recorded(sampler: Sampler, prompts: Any, iteration: int, round_number: int = 0, **options: Any) -> Any:
        call = original(sampler, prompts, iteration, round_number, **options)
        return call if iteration == EVALUATION_ITERATION else call.reading(noted)

    def noted(made: Generated) -> Generated:
        found.append(tokens_of(made.responses))
        return made

    with patch.object(Sampler, "generate", recorded):
        yield found


def tokens_of(data: DataRef) -> Tokens:
    """The column ``response_ids``, samples in order."""
    joined = concatenate([_fetched(part.ref) for part in data.parts])
    responses = joined.take(np.argsort(joined.dense("sample"), kind="stable")).ragged("response_ids")
    return [responses[row].tolist() for row in range(len(responses))]


@contextmanager
def stale_generator() -> Iterator[None]:
    """No weights reach the generator after the first sync."""
    with patch.object(rl, "sync_weights", lambda *_: None):
        yield


@contextmanager
def stale_layer() -> Iterator[None]:
    """One tensor of the generator is not what the trainer has, from the first sync on."""
    original: Any = getattr(generator_worker, COPY_WEIGHTS)

    def copied(tensors: Any, targets: Any) -> int:
        count = original(tensors, targets)
        with torch.no_grad():
            targets[sorted(targets)[-2]].mul_(0.5)
        return int(count)

    with patch.object(generator_worker, COPY_WEIGHTS, copied):
        yield


@contextmanager
def wrong_mask(step: int) -> Iterator[None]:
    """In that step, counted from 1, an update in this process leaves out the last token of its longest response."""
    original: Any = getattr(Updater, ONE_STEP)

    def broken(updater: Updater, batch: Batch, *rest: Any) -> Any:
        if rest[-1] == step - 1:
            mask = batch.response_mask()
            values = mask.values.copy()
            values[mask.offsets[int(np.argmax(mask.lengths)) + 1] - 1] = 0
            batch = batch.with_columns(response_mask=replace(mask, values=values))
        return original(updater, batch, *rest)

    with patch.object(Updater, ONE_STEP, broken):
        yield


@contextmanager
def other_reference_weights(builder: Any, folder: str) -> Iterator[None]:
    """The reference's ranks load ``folder``, where the recipe says that they load the policy's start.

    ``builder``: the module that loads the models. A recipe that names another reference is refused before it starts.
    """
    original = builder.model_starts

    def starts(*args: Any) -> Any:
        found = original(*args)
        return {**found, "reference": replace(found["reference"], path=folder)}

    with patch.object(builder, "model_starts", starts):
        yield


def keep_outcome(
    groups: Mapping[str, ModelGroup], trained: tuple[str, ...], rollouts: list[Tokens], folder: Path
) -> None:
    """Beside the run's ledgers: what every rank holds, the tokens generated, and the trained weights.

    Every rank calls this where the controller runs on every rank.
    """
    held = {
        role: [asdict(report) for report in ask(group.ranks, ModelVerbs.held).result().reports]
        for role, group in groups.items()
    }
    for role in trained:
        groups[role].export(str(folder / "weights" / role)).result()
    (folder / "held.json").write_text(json.dumps(held))
    (folder / "rollouts.json").write_text(json.dumps(rollouts))


def _fetched(ref: Any) -> Batch:
    if isinstance(ref, Batch):
        return ref
    import ray

    batch = ray.get(ref)
    assert isinstance(batch, Batch)
    return batch
