"""The same model and rows in TRL. Prints one JSON line.

    python -m tests.gpu.trl_loop sft|dpo|reward MODEL ROWS.jsonl --rows 8 --micro 2 --length 2048 --steps 20
        [--bf16] [--liger]

As shipped (float32 weights under bf16 autocast, gradient checkpointing); with ``--bf16`` the weights, and so its AdamW
states, are bfloat16 and nothing is computed twice.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from tests.gpu.figures import device, peaks, synchronize


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        synchronize()
        self._started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        synchronize()
        self.seconds.append(time.perf_counter() - self._started)


def trainer(asked: argparse.Namespace, folder: str, clock: Clock) -> Any:
    """TRL's trainer of that kind."""
    cuda = device().type == "cuda"
    settings: dict[str, Any] = {
        "output_dir": folder, "per_device_train_batch_size": asked.rows, "gradient_accumulation_steps": asked.micro,
        "max_length": asked.length, "max_steps": asked.steps, "learning_rate": 1e-5, "optim": "adamw_torch_fused",
        "gradient_checkpointing": not asked.bf16, "bf16": cuda and not asked.bf16, "use_cpu": not cuda,
        "use_liger_kernel": asked.liger, "dataloader_num_workers": 2 if cuda else 0, "report_to": [],
        "save_strategy": "no", "logging_steps": 1000, "disable_tqdm": True,
    }  # fmt: skip
    dtype = torch.bfloat16 if asked.bf16 else torch.float32
    kind: Any = AutoModelForSequenceClassification if asked.kind == "reward" else AutoModelForCausalLM
    options = {"num_labels": 1} if asked.kind == "reward" else {}
    model = kind.from_pretrained(asked.model, dtype=dtype, attn_implementation="sdpa", **options)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    rows = load_dataset("json", data_files=asked.data, split="train")
    if asked.kind == "reward":
        rows = cut_pairs(rows, tokenizer, asked.length)
    common = {"model": model, "train_dataset": rows, "processing_class": tokenizer, "callbacks": [clock]}
    if asked.kind == "sft":
        from trl import SFTConfig, SFTTrainer

        return SFTTrainer(args=SFTConfig(**settings), **common)
    if asked.kind == "dpo":
        from trl import DPOConfig, DPOTrainer

        return DPOTrainer(args=DPOConfig(**settings), **common)
    from trl import RewardConfig, RewardTrainer

    return RewardTrainer(args=RewardConfig(**settings), **common)


def cut_pairs(rows: Any, tokenizer: Any, length: int) -> Any:
    """The pairs in tokens, none longer than ``length``: RewardTrainer drops longer ones where the others cut."""

    def cut(row: dict[str, str]) -> dict[str, list[int]]:
        sides = ("chosen", "rejected")
        return {f"{side}_ids": tokenizer(row["prompt"] + row[side])["input_ids"][:length] for side in sides}

    return rows.map(cut, remove_columns=rows.column_names)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("sft", "dpo", "reward"))
    parser.add_argument("model")
    parser.add_argument("data")
    for name, default in (("rows", 8), ("micro", 1), ("length", 2048), ("steps", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--liger", action="store_true")
    asked = parser.parse_args()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer(asked, folder, clock).train()
    sides = 1 if asked.kind == "sft" else 2
    tokens = asked.micro * asked.rows * asked.length * sides
    print(json.dumps({"seconds": clock.seconds, "tokens": tokens, **peaks()}), flush=True)


if __name__ == "__main__":
    main()
