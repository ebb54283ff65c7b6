"""Samples of a micro-batch in one row beside a padded row for each: processor time of the same optimizer steps.

    python -m tests.benchmarks.packed [--steps 12] [--repeats 5]

One process of one thread, a plain AdamW. The models of `pretrain-tiny` and `sft-tiny` and a wider one, on their rows;
the schedule weighs micro-batches as that of an unsharded group on a CPU does. Packed and padded steps in turns, the
median of the repetitions. Prints a table (Markdown).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from distft.algorithms.losses.build import build_loss
from distft.batches import Batch
from distft.common.addresses import found_at
from distft.config.load import load_recipe
from distft.config.models import Init
from distft.config.recipe import Recipe
from distft.data.builtin import dialogues
from distft.data.dataset import load_datasets
from distft.data.stories import stories
from distft.data.tokenizer_training import train_tokenizer
from distft.experience.schedule import Schedule, schedule
from distft.models.families.causal import Causal
from distft.models.packing import keep_apart
from distft.models.start import create_model
from distft.planning.micro_batch_cost import CPU_TOKENS
from distft.workers.update import Updater
from tests.harness.plain_engine import PlainEngine

RECIPES = ("pretrain-tiny", "sft-tiny")
WIDE = ["models.policy.init.hidden_size=512", "models.policy.init.num_heads=8"]


class Steps:
    """The first steps of a recipe, laid out in one way."""

    def __init__(self, recipe: Recipe, folder: str, batches: list[Batch], *, packed: bool) -> None:
        self._recipe, self._batches, self._packed = recipe, batches, packed
        family = Causal(packed=packed)
        model = recipe.models.policy
        assert model is not None
        module = family.load(folder, model.model_copy(update={"path": folder}), dropout=True).module
        if packed:
            keep_apart(module.model)
        engine: Any = PlainEngine(module, recipe.optimizer)
        self._updater = Updater(engine, family, 0)
        self._loss = build_loss(found_at(recipe.algorithm.traits.losses["policy"].address), {})
        self.plans = [self._plan(batch) for batch in batches]

    def _plan(self, batch: Batch) -> Schedule:
        lengths = batch.ragged("prompt_ids").lengths + batch.ragged("response_ids").lengths
        cap = self._recipe.train.max_tokens_per_rank
        return schedule(lengths, range(len(lengths)), 1, cap, micro_batch_cost=CPU_TOKENS, packed=self._packed)

    def seconds(self) -> float:
        """Of processor time."""
        started = time.process_time()
        for batch, plan in zip(self._batches, self.plans, strict=True):
            self._updater.run(batch, [plan.micro_batches[0]], self._loss, learning_rates=[1e-4])
        return time.process_time() - started


def measured(name: str, overrides: list[str], num_steps: int, repeats: int) -> str:
    """A line of the table."""
    recipe = load_recipe(name, overrides)
    texts = stories() if name == "pretrain-tiny" else dialogues()
    init: Init | None = recipe.models.policy.init if recipe.models.policy else None
    assert init is not None
    tokenizer = train_tokenizer((" ".join(map(str, row.values())) for row in texts), init.vocab_size)
    kind, learned = recipe.algorithm.name, recipe.algorithm.learned_tokens()
    train = load_datasets(recipe.data, kind, tokenizer, loss_on=learned).train
    size = recipe.train.global_batch_size
    assert isinstance(size, int)
    batches = [train.batch(range(step * size, (step + 1) * size)) for step in range(num_steps)]
    with tempfile.TemporaryDirectory() as folder:
        create_model(init, tokenizer, Path(folder), seed=1)
        ways = {packed: Steps(recipe, folder, batches, packed=packed) for packed in (False, True)}
    for way in ways.values():
        way.seconds()
    taken: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repeats):
        for packed, way in ways.items():
            taken[packed].append(way.seconds())
    padded, in_one = ways[False].plans, ways[True].plans
    tokens = sum(plan.num_tokens for plan in padded)
    padding = 1 - tokens / sum(sum(plan.costs[0]) for plan in padded)
    counts = [sum(plan.num_micro_batches for plan in plans) / num_steps for plans in (padded, in_one)]
    rates = [tokens / median(taken[packed]) for packed in (False, True)]
    return (
        f"| {name}, {init.hidden_size} wide | {padding:.2f} | {counts[0]:.1f} | {counts[1]:.1f} "
        f"| {rates[0]:,.0f} | {rates[1]:,.0f} | {rates[1] / rates[0]:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    told = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    print("| | padding | micro-batches padded | packed | tokens/s padded | packed | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in RECIPES:
        for overrides in ([], WIDE):
            print(measured(name, overrides, told.steps, told.repeats), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
