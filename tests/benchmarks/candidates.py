"""What is measured: TRL's trainers, a bare torch loop, and distft, each over the same rows in the same order.

Every function trains ``WARM_UP + MEASURED`` steps of ``BATCH`` rows and returns the seconds that the
measured steps took, from the end of the last warm-up step to the end of the last step.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from tests.benchmarks.rows import MAX_LENGTH, MAX_PROMPT_LENGTH, Rows, load

BATCH, WARM_UP, MEASURED = 8, 1, 3
STEPS = WARM_UP + MEASURED
# distft runs on after the last measured step: its reference reads one batch ahead, and each step must pay for one.
AHEAD = 1
MAX_TOKENS = 4096  # padded tokens of a micro-batch, in the bare loop and in distft


# --- TRL ----------------------------------------------------------------------------------------


class Clock(TrainerCallback):
    """The time at the end of every step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends.append(time.perf_counter())


def trl(rows: Rows, method: str, *, shipped: bool) -> float:
    """TRL 1.16 as it ships (gradient checkpointing), or with checkpointing off; bf16 autocast over float32 weights."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    clock = Clock()
    tokenizer = AutoTokenizer.from_pretrained(rows.model)
    with tempfile.TemporaryDirectory() as folder:
        arguments: dict[str, Any] = {
            "output_dir": folder, "per_device_train_batch_size": BATCH, "max_steps": STEPS, "max_length": MAX_LENGTH,
            "learning_rate": 1e-6, "bf16": True, "use_cpu": True, "report_to": "none", "save_strategy": "no",
            "logging_steps": 1, "disable_tqdm": True, "train_sampling_strategy": "sequential",
        }  # fmt: skip
        if not shipped:
            arguments["gradient_checkpointing"] = False
        classes: tuple[Any, Any] = (DPOConfig, DPOTrainer) if method == "dpo" else (SFTConfig, SFTTrainer)
        config_class, trainer_class = classes
        data = Dataset.from_list(load(rows.preference_file if method == "dpo" else rows.text_file))
        trainer = trainer_class(
            str(rows.model), args=config_class(**arguments), train_dataset=data, processing_class=tokenizer,
            callbacks=[clock],
        )  # fmt: skip
        trainer.train()
        expected = sum((rows.preference_tokens if method == "dpo" else rows.text_tokens)[: STEPS * BATCH])
        seen = trainer.state.log_history[-2]["num_tokens"]
        if seen != expected:
            raise RuntimeError(f"TRL read {seen} tokens where {expected} were counted")
    return clock.ends[-1] - clock.ends[WARM_UP - 1]


# --- a bare loop --------------------------------------------------------------------------------


def micro_batches(sequences: list[list[int]], max_tokens: int) -> Iterator[list[list[int]]]:
    """Sequences of like length together, at most ``max_tokens`` with padding."""
    batch: list[list[int]] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > max_tokens:
            yield batch
            batch = []
        batch.append(sequence)
    yield batch


def logprobs_of(model: torch.nn.Module, batch: list[list[int]]) -> Tensor:
    """Log-probs of all real tokens but the first of each sequence, flat, float32."""
    longest = max(map(len, batch))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
    there = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
    hidden = model.model(input_ids=ids, attention_mask=there, use_cache=False).last_hidden_state  # type: ignore[operator]
    real = there[:, 1:].bool()
    logits = model.lm_head(hidden[:, :-1][real]).float()  # type: ignore[operator]
    return -F.cross_entropy(logits, ids[:, 1:][real], reduction="none")


def bare(rows: Rows, method: str) -> float:
    """Forward, backward and fused AdamW in bf16, micro-batches sorted by length; for DPO a frozen model reads each.

    Token log-probs enter a sum: what a loss does with a number a sequence costs nothing beside it.
    """
    model = AutoModelForCausalLM.from_pretrained(rows.model, dtype=torch.bfloat16)
    frozen = AutoModelForCausalLM.from_pretrained(rows.model, dtype=torch.bfloat16) if method == "dpo" else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    tokenizer = AutoTokenizer.from_pretrained(rows.model)
    if method == "dpo":
        texts = [[row["prompt"] + row[s] for s in ("chosen", "rejected")] for row in load(rows.preference_file)]
    else:
        texts = [[row["text"]] for row in load(rows.text_file)]
    ends = []
    for step in range(STEPS):
        chosen = [text for group in texts[step * BATCH : (step + 1) * BATCH] for text in group]
        sequences = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in chosen]
        for batch in micro_batches(sequences, MAX_TOKENS):
            if frozen is not None:
                with torch.no_grad():
                    logprobs_of(frozen, batch)
            (-logprobs_of(model, batch).sum() / sum(map(len, sequences))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    return ends[-1] - ends[WARM_UP - 1]


# --- distft -------------------------------------------------------------------------------------


def recipe(rows: Rows, method: str, output_dir: Path) -> dict[str, Any]:
    """The same model, rows, order and batch for ``distft train``, every role on one rank."""
    roles = ("policy", "reference") if method == "dpo" else ("policy",)
    source = {"path": str(rows.preference_file), "format": "preference"}
    if method == "sft":
        source = {"path": str(rows.text_file), "format": "text"}
    return {
        "format": 1, "name": f"speed-{method}", "output_dir": str(output_dir), "algorithm": {"kind": method},
        "models": {"policy": {"path": str(rows.model), "dtype": "bfloat16"}},
        "placement": {role: {"ranks": 1} for role in roles},
        "data": {"train": [source], "max_length": MAX_LENGTH, "max_prompt_length": MAX_PROMPT_LENGTH, "shuffle": False},
        "optimizer": {"name": "adamw", "learning_rate": 1.0e-6},
        "train": {"steps": STEPS + AHEAD, "global_batch_size": BATCH, "max_tokens_per_rank": MAX_TOKENS},
        "checkpoint": {"every": STEPS + AHEAD, "keep": 1},
        "tracking": {"wandb": {"mode": "disabled"}},
    }  # fmt: skip


def distft(rows: Rows, method: str) -> float:
    """``distft train`` as a user runs it; the times are those of the lines of its metrics file."""
    with tempfile.TemporaryDirectory(dir=rows.model.parent) as folder:
        run, path = Path(folder) / "run", Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe(rows, method, run)), encoding="utf-8")
        command = [
            sys.executable,
            "-c",
            "import sys; from distft.cli import main; sys.exit(main())",
            "train",
            str(path),
        ]
        subprocess.run(command, check=True, stdout=sys.stderr)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    train = [line for line in lines if line["split"] == "train"]
    for line in train:
        phases = {name: value for name, value in line.items() if name.startswith(("perf/", "timing/"))}
        print(f"distft {method} step {line['step']}: {phases}", file=sys.stderr)
    if len(train) != STEPS + AHEAD:
        raise RuntimeError(f"{len(train)} lines of training metrics where {STEPS + AHEAD} steps were asked for")
    return float(train[STEPS - 1]["time"] - train[WARM_UP - 1]["time"])
