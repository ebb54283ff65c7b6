"""Runs of the cells of the support matrix, as small as they can be: two steps on two ranks each, all in one go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from distft.config.find_method import traits_of
from distft.data.builtin import dialogues
from distft.data.tokenizer_training import Reader, train_tokenizer
from distft.doctor.support import Cell, as_recipe
from tests.harness.jobs import Outcome, TrainJob
from tests.harness.layouts import run_spmd
from tests.harness.recipes import write_recipe

STEPS = 2
_WITH_BIASES = "bart"
_READERS: Mapping[str, Reader] = {"decoder": "llama", "encoder-decoder": "t5", "encoder": "bert", _WITH_BIASES: "t5"}
_KEYS: Mapping[str, Mapping[str, Any]] = {"contrastive": {"max_negatives": 1}}  # as the rows have them


def save_starts(folder: Path) -> None:
    """A model of each family in a folder named as the family, with a tokenizer of its kind."""
    texts = [f"{row['prompt']} {row['chosen']}" for row in islice(dialogues(), 400)]
    for name, reader in _READERS.items():
        tokenizer = train_tokenizer(texts, 400, reader=reader)
        torch.manual_seed(1)
        made = _model(name, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
        made.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def start_of(cell: Cell, starts: Path) -> Path:
    """The folder of a model for it: a T5 has no biases."""
    return starts / (_WITH_BIASES if (cell.family, cell.adapter) == ("encoder-decoder", "bitfit") else cell.family)


def _model(name: str, vocabulary: int, pad: int, end: int | None) -> Any:
    if name == _WITH_BIASES:
        ids = {"pad_token_id": pad, "eos_token_id": end, "bos_token_id": pad, "decoder_start_token_id": pad}
        sides = {f"{side}_{key}": size for side in ("encoder", "decoder")
                 for key, size in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 64))}  # fmt: skip
        end_first = {"forced_eos_token_id": None, "forced_bos_token_id": None}
        return BartForConditionalGeneration(
            BartConfig(vocab_size=vocabulary, d_model=32, max_position_embeddings=256, **sides, **ids, **end_first)
        )
    if name == "encoder-decoder":
        t5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "feed_forward_proj": "gated-gelu"}
        ids = {"pad_token_id": pad, "eos_token_id": end, "decoder_start_token_id": pad}
        return T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, **t5, **ids))
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 256, "pad_token_id": pad,
    }  # fmt: skip
    if name == "encoder":
        return BertForMaskedLM(BertConfig(**sizes))
    return LlamaForCausalLM(LlamaConfig(**sizes, attention_bias=True, bos_token_id=None, eos_token_id=end))


def recipe_of(cell: Cell, starts: Path) -> dict[str, Any]:
    """The recipe that the matrix asks the checks about, small."""
    made = as_recipe(cell, start_of(cell, starts))
    for model in made["models"].values():
        if "path" in model:
            model |= {"dtype": "float32", "engine": {**model.get("engine", {}), "persistence_threshold": 0}}
    made["data"]["train"][0]["limit"] = 48
    prompts = {"max_prompt_length": 96} if traits_of(cell.method).sampled else {}
    if traits_of(cell.method).sampled:
        made["models"]["reward"]["functions"] = ["tests.harness.rules:letters_e"]  # answers differ in it
    return {
        **made,
        "algorithm": made["algorithm"] | _KEYS.get(cell.method, {}),
        "data": made["data"] | {"max_length": 160} | prompts,
        "rollout": made["rollout"] | {"max_new_tokens": 6},
        "optimizer": {"learning_rate": 1e-3},
        "train": {"steps": STEPS, "global_batch_size": 4, "max_tokens_per_rank": 640},
        "checkpoint": {"every": 1000},
        "tracking": {"wandb": {"mode": "disabled"}, "samples_every": 0, "timeline_steps": 0},
    }


def named(cell: Cell) -> str:
    """The values of a cell, to name a folder by."""
    return "_".join(asdict(cell).values())


def run_cells(cells: Sequence[Cell], starts: Path, folder: Path) -> dict[str, Outcome]:
    """Trains each of them, see ``run_recipes``; outcomes by the values of the cell."""
    return run_recipes({named(cell): recipe_of(cell, starts) for cell in cells}, folder)


def run_recipes(recipes: Mapping[str, dict[str, Any]], folder: Path) -> dict[str, Outcome]:
    """Trains each of them on the two ranks of one torchrun; their outcomes by name."""
    jobs = [
        TrainJob(name, write_recipe(recipe, folder / f"{name}.yaml", folder / name), str(folder / name))
        for name, recipe in recipes.items()
    ]
    run_spmd(jobs, 2, folder)
    return {name: Outcome(folder / name) for name in recipes}
