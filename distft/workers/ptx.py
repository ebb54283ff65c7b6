"""Sampled responses and other texts as one batch, for a policy that learns from both in a step (PPO-ptx)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace

import numpy as np

from distft.batches import Batch, Column, Ragged, concatenate
from distft.config.data import Data
from distft.config.recipe import Recipe
from distft.config.roles import longest_sequence
from distft.data.dataset import Datasets, Preparing, saying

_READ = ("prompt_ids", "response_ids", "old_logprobs", "advantages", "importance_weights")


def with_texts(samples: Batch, texts: Batch) -> Batch:
    """The samples as they are, numbered from 0, and behind them the texts, whose samples and units are numbered on.
    Column ``ptx`` [samples + texts] float32 is 1 of texts; of what is only said of samples they have zeros, and no
    experts."""
    count, first_unit = len(samples), int(samples.dense("unit").max(initial=-1)) + 1
    lengths = texts.ragged("response_ids").lengths
    found: list[dict[str, Column]] = [{}, {}]
    for name in _READ:
        if name in samples:
            column = samples.ragged(name)
            zeros = Ragged.split(np.zeros(int(lengths.sum()), column.values.dtype), lengths)
            found[0][name], found[1][name] = column, texts.columns.get(name, zeros)
    if "routed_experts" in samples:
        chosen = samples.ragged("routed_experts")
        none = Ragged.split(chosen.values[:0], np.zeros(len(texts), np.int64))
        found[0]["routed_experts"], found[1]["routed_experts"] = chosen, none
    parts = []
    for batch, columns, is_text in zip((samples, texts), found, (0.0, 1.0), strict=True):
        responses = batch.ragged("response_ids")
        whole = Ragged.split(np.ones(len(responses.values), np.uint8), responses.lengths)
        columns["response_mask"] = batch.columns.get("response_mask", whole)
        columns["ptx"] = np.full(len(batch), is_text, np.float32)
        parts.append(Batch(columns))
    numbers = np.arange(count + len(texts), dtype=np.int64)
    units = np.concatenate([samples.dense("unit"), first_unit + texts.dense("unit")])
    return concatenate(parts).with_columns(sample=numbers, unit=units)


def data_of_texts(recipe: Recipe) -> Data:
    """``data.ptx`` as a list that is trained on, no row longer than what the run samples."""
    given, longest = recipe.data, longest_sequence(recipe)
    return given.model_copy(
        update={
            "train": given.ptx, "eval": (), "test": (), "ptx": (), "holdout": 0.0, "overlong": "truncate",
            "max_length": longest, "max_prompt_length": min(given.max_prompt_length, longest - 1),
        }
    )  # fmt: skip


def with_contents(
    work: Generator[Preparing, None, Datasets], change: Callable[[Mapping[str, str]], Mapping[str, str] | None]
) -> Generator[Preparing, None, Datasets]:
    """The same work, which says of its sources' contents what ``change`` makes of them; None: nothing."""
    return saying(work, lambda said: said if said.contents is None else replace(said, contents=change(said.contents)))
