"""Models, rows, recipes and the cluster file of the measurements, all made on the machine that measures."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from distft.data.tokenizer_training import train_tokenizer
from tests.gpu.cases import Case, Size

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_models(size: Size, folder: Path) -> None:
    """Llamas with random weights in bfloat16 (``model``, ``small``, ``reward``) and rows that fill a length."""
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(_write_rows(size, folder), size.vocabulary)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kinds: dict[str, tuple[int, Any]] = {
        "model": (size.hidden, LlamaForCausalLM),
        "small": (size.small, LlamaForCausalLM),
        "reward": (size.small, LlamaForSequenceClassification),
    }
    for name, (hidden, kind) in kinds.items():
        torch.manual_seed(1)
        with torch.device(device):
            model = kind(config_of(size, hidden, tokenizer)).to(torch.bfloat16)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "done").write_text("")


def config_of(size: Size, hidden: int, tokenizer: Any = None) -> LlamaConfig:
    """A Llama whose heads have 64 elements, a quarter of them keys."""
    heads = max(4, hidden // 64)
    tokens = {name: getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return LlamaConfig(
        hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=size.layers, num_attention_heads=heads,
        num_key_value_heads=heads // 4, vocab_size=size.vocabulary, max_position_embeddings=2 * size.length,
        tie_word_embeddings=True, num_labels=1, **tokens,
    )  # fmt: skip


def recipe_of(case: Case, size: Size, models: Path, run_dir: Path) -> dict[str, Any]:
    """The recipe that the case's overrides change."""
    trained = "reward" if case.kind == "reward" else "policy"
    small = case.kind == "ppo"
    pairs = case.kind in ("dpo", "reward")
    recipe: dict[str, Any] = {
        "name": f"gpu-{case.kind}",
        "output_dir": str(run_dir),
        "algorithm": {"kind": case.kind},
        "models": {trained: {"path": str(models / ("small" if small else "model")), "dtype": "bfloat16"}},
        "data": {
            "train": [{"path": str(models / f"{'dpo' if pairs else case.kind}.jsonl")}],
            "max_length": size.length // 2 if pairs else size.length,
            "max_prompt_length": size.length // 4,
            "overlong": "drop" if small else "truncate",
        },
        "optimizer": {"learning_rate": 1.0e-5},
        "checkpoint": {"every": 100_000, "keep": 1},
        "evaluation": {"every": 0},
        "tracking": {"wandb": {"mode": "disabled"}, "samples_every": 0},
        "train": {"steps": 1, "global_batch_size": 1, "max_tokens_per_rank": size.length},
    }
    if small:
        recipe["models"]["reward"] = {"path": str(models / "reward"), "dtype": "bfloat16"}
        recipe["algorithm"] |= {"epochs": 1, "minibatches": 2}
        recipe["rollout"] = {"engine": "hf", "max_new_tokens": size.new_tokens, "max_batch_per_rank": size.prompts}
    return recipe


def write_cluster(path: Path, *, cap_gib: float | None, cpu: bool) -> None:
    """One GPU as it is, or said to have less memory than it has; with ``cpu`` cores in its place."""
    node: dict[str, Any] = {"cpus": "auto", "memory_gib": "auto", "gpus": 0 if cpu else 1}
    if cpu:
        node["ranks_per_cpu"] = 4
    elif cap_gib:
        node["gpu"] = {
            "type": "capped", "memory_gib": cap_gib, "bf16_tflops": 989, "memory_bandwidth_gbs": 3350,
            "interconnect_gbs": 900,
        }  # fmt: skip
    path.write_text(yaml.safe_dump({"name": path.stem, "kind": "local", "nodes": 1, "node": node}))


def _write_rows(size: Size, folder: Path) -> list[str]:
    """A word is at least one token, so that rows of as many words as tokens are cut at the length. The texts."""
    draw = random.Random(7)
    lexicon = ["".join(draw.choices(LETTERS, k=draw.randint(3, 8))) for _ in range(size.vocabulary // 5)]

    def words(count: int) -> str:
        return " ".join(draw.choices(lexicon, k=count))

    count, side = max(16, 40 * size.rows), size.length // 2
    texts = [words(size.length + size.length // 8) for _ in range(count)]
    _write(folder / "sft.jsonl", ({"text": text} for text in texts))
    pairs = ((words(size.length // 8), words(side), words(side)) for _ in range(count))
    rows = ({"prompt": ask, "chosen": f" {good}", "rejected": f" {bad}"} for ask, good, bad in pairs)
    _write(folder / "dpo.jsonl", rows)
    _write(folder / "ppo.jsonl", ({"prompt": words(size.length // 16)} for _ in range(count)))
    return texts[:60]


def _write(path: Path, rows: Iterator[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
