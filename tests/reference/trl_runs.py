"""A few steps of TRL 1.16's trainers, made deterministic, and what they logged.

float32 on the CPU, rows in the given order, no dropout, no packing, no gradient checkpointing, one
optimizer step a batch, AdamW without weight decay, clipping at ``max_grad_norm``. What TRL does to
the rows, so that another trainer can be given the same tokens:

* plain rows: the EOS *text* is put behind ``text``, ``completion``, ``chosen`` and ``rejected`` unless it
  is there; then prompt + completion is tokenized as one string. The completion starts where the
  tokens of that string and of the prompt alone part; DPO takes the smaller of both sides' starts.
* conversational rows: the chat template over prompt + completion, nothing added; the prompt's
  tokens are those of the template with the generation prompt.
* too long: SFT and DPO keep the first ``max_length`` tokens and drop a row that has no completion token
  left (SFT) or whose prompt alone fills ``max_length`` (DPO). RewardTrainer *drops* a pair of which
  either side is longer than ``max_length``: it never truncates.
* the reward is read at the last token that differs from the pad token: where that is EOS, at the one before it.
* a logged loss is the batch's own: SFT over tokens of the batch, DPO and reward over pairs.
  DPO's ``logits/*`` is the mean over completion tokens of the mean logit over the vocabulary.
* the schedule: ``linear`` has no warm-up here; step k (from 0) of n uses ``lr * (1 - k / n)``.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)  # fmt: skip

Row = Mapping[str, Any]


@dataclass
class Batch:
    """The tokens of one optimizer step as the trainer saw them, without padding.

    ``sequences[i]`` are the tokens of row i and ``learned[i]`` says of each token whether it is
    learned; for preference data the chosen come first, then the rejected, in the same order.
    Learned is all ones for the reward trainer, which reads whole sequences.
    """

    sequences: list[list[int]]
    learned: list[list[int]]


@dataclass
class TrlRun:
    """What a run logged, step by step, what it was fed, and where its weights ended."""

    logs: list[dict[str, float]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # numbers of the given rows that were kept, in the order of use
    weights: dict[str, torch.Tensor] = field(default_factory=dict)


def recording(trainer_class: type, run: TrlRun) -> type:
    """The trainer with rows taken in order and every batch written down."""

    class Recording(trainer_class):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:
            return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

        def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
            run.batches.append(unpadded(inputs))
            step: torch.Tensor = super().training_step(model, inputs, *rest)
            return step

    return Recording


def unpadded(inputs: Mapping[str, torch.Tensor]) -> Batch:
    """A collated batch as lists of tokens; SFT marks learned tokens by labels, DPO by ``completion_mask``."""
    if "chosen_input_ids" in inputs:
        parts = ("input_ids", "attention_mask", "labels")
        chosen, rejected = (
            unpadded({part: inputs[f"{side}_{part}"] for part in parts}) for side in ("chosen", "rejected")
        )
        return Batch(chosen.sequences + rejected.sequences, chosen.learned + rejected.learned)
    ids = inputs["input_ids"]
    there = inputs["attention_mask"].bool() if "attention_mask" in inputs else torch.ones_like(ids, dtype=torch.bool)
    learned = inputs.get("completion_mask")
    if learned is None:
        learned = (inputs["labels"] != -100).long() if "labels" in inputs else torch.ones_like(ids)
    return Batch(
        [row[keep].tolist() for row, keep in zip(ids, there, strict=True)],
        [row[keep].tolist() for row, keep in zip(learned, there, strict=True)],
    )


def common_arguments(
    folder: str, batch_size: int, steps: int, learning_rate: float, schedule: str, max_length: int, max_grad_norm: float
) -> dict[str, Any]:
    return {
        "output_dir": folder, "per_device_train_batch_size": batch_size, "gradient_accumulation_steps": 1,
        "max_steps": steps, "learning_rate": learning_rate, "lr_scheduler_type": schedule, "warmup_steps": 0,
        "weight_decay": 0.0, "optim": "adamw_torch", "max_grad_norm": max_grad_norm, "max_length": max_length,
        "bf16": False, "fp16": False, "use_cpu": True, "gradient_checkpointing": False, "seed": 1,
        "logging_steps": 1, "logging_first_step": True, "report_to": "none", "save_strategy": "no",
        "disable_tqdm": True, "dataloader_num_workers": 0, "train_sampling_strategy": "sequential",
    }  # fmt: skip


def run_trainer(
    make: Callable[[type, dict[str, Any], Dataset], Any],
    trainer_class: type,
    rows: Sequence[Row],
    **arguments: Any,
) -> TrlRun:
    """Builds the trainer by ``make(class, arguments, data)``, trains, and collects what it logged."""
    run = TrlRun()
    with tempfile.TemporaryDirectory() as folder:
        data = Dataset.from_list([{**row, "row": number} for number, row in enumerate(rows)])
        trainer = make(recording(trainer_class, run), common_arguments(folder, **arguments), data)
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        run.rows = list(trainer.train_dataset["row"])
        trainer.train()
        run.logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        trained = trainer.model.merge_and_unload() if isinstance(trainer.model, PeftModel) else trainer.model
        run.weights = {name: value.detach().clone() for name, value in trained.state_dict().items()}
    return run


def causal(folder: str | Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attention_dropout=0.0)


def run_sft(
    model: str | Path, rows: Sequence[Row], *, batch_size: int, learning_rate: float, steps: int = 5,
    schedule: str = "constant", max_length: int = 512, max_grad_norm: float = 1.0, **options: Any,
) -> TrlRun:  # fmt: skip
    """``SFTTrainer``: rows of ``text``, ``prompt`` + ``completion`` (completion learned only), or ``messages``.

    Logs ``loss, grad_norm, learning_rate, mean_token_accuracy, entropy, num_tokens`` (tokens so far, without padding).
    """

    def make(trainer: type, arguments: dict[str, Any], data: Dataset) -> Any:
        config = SFTConfig(**arguments, packing=False, **options)
        return trainer(causal(model), args=config, train_dataset=data, processing_class=tokenizer_of(model))

    return run_trainer(
        make, SFTTrainer, rows, batch_size=batch_size, steps=steps, learning_rate=learning_rate,
        schedule=schedule, max_length=max_length, max_grad_norm=max_grad_norm,
    )  # fmt: skip


def run_reward(
    model: str | Path, rows: Sequence[Row], *, batch_size: int, learning_rate: float, steps: int = 5,
    schedule: str = "constant", max_length: int = 512, max_grad_norm: float = 1.0, **options: Any,
) -> TrlRun:  # fmt: skip
    """``RewardTrainer`` on a folder *with* a scalar head (``num_labels`` 1); rows ``[prompt,] chosen, rejected``.

    Logs ``loss, grad_norm, learning_rate, accuracy, margin, min_reward, mean_reward, max_reward, num_tokens``.
    """

    def make(trainer: type, arguments: dict[str, Any], data: Dataset) -> Any:
        config = RewardConfig(**arguments, disable_dropout=True, **options)
        scorer = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32, num_labels=1)
        tokenizer = AutoTokenizer.from_pretrained(model)
        return trainer(scorer, args=config, train_dataset=data, processing_class=tokenizer)

    return run_trainer(
        make, RewardTrainer, rows, batch_size=batch_size, steps=steps, learning_rate=learning_rate,
        schedule=schedule, max_length=max_length, max_grad_norm=max_grad_norm,
    )  # fmt: skip


def run_dpo(
    model: str | Path, rows: Sequence[Row], *, batch_size: int, learning_rate: float, steps: int = 5,
    schedule: str = "constant", max_length: int = 512, max_grad_norm: float = 1.0, beta: float = 0.1,
    reference: str | Path | None = None, adapted: Callable[[Any], Any] | None = None, **options: Any,
) -> TrlRun:  # fmt: skip
    """``DPOTrainer``; the reference is the model's start unless given. ``options``: ``loss_type`` ...

    ``adapted`` makes a PEFT model of the start; then the reference is its base, and the weights are merged.

    Logs ``loss, grad_norm, learning_rate, rewards/{chosen,rejected,accuracies,margins}, logps/*, logits/*, entropy,
    mean_token_accuracy, num_tokens``.
    """

    def make(trainer: type, arguments: dict[str, Any], data: Dataset) -> Any:
        config = DPOConfig(**arguments, disable_dropout=True, beta=beta, **options)
        start = causal(model) if adapted is None else adapted(causal(model))
        return trainer(
            start, ref_model=causal(reference or model) if adapted is None else None, args=config, train_dataset=data,
            processing_class=tokenizer_of(model),
        )  # fmt: skip

    return run_trainer(
        make, DPOTrainer, rows, batch_size=batch_size, steps=steps, learning_rate=learning_rate,
        schedule=schedule, max_length=max_length, max_grad_norm=max_grad_norm,
    )  # fmt: skip


def run_orpo(
    model: str | Path, rows: Sequence[Row], *, batch_size: int, learning_rate: float, steps: int = 5,
    schedule: str = "constant", max_length: int = 512, max_grad_norm: float = 1.0, beta: float = 0.1, **options: Any,
) -> TrlRun:  # fmt: skip
    """``ORPOTrainer`` of ``trl.experimental``, but that it imitates as the paper says: the mean over the chosen
    answer's own tokens, and every pair weighs the same. TRL's own takes the prompt's tokens too, all in one mean.

    Logs ``loss, grad_norm, learning_rate, nll_loss, log_odds_ratio, log_odds_chosen, rewards/*, logps/*, logits/*``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    class OfAnswers(ORPOTrainer):  # type: ignore[misc]
        def concatenated_forward(self, *arguments: Any) -> tuple[Any, ...]:
            chosen, *found, _ = super().concatenated_forward(*arguments)
            return chosen, *found, -chosen.mean()

    def make(trainer: type, arguments: dict[str, Any], data: Dataset) -> Any:
        config = ORPOConfig(**arguments, disable_dropout=True, beta=beta, **options)
        return trainer(causal(model), args=config, train_dataset=data, processing_class=tokenizer_of(model))

    return run_trainer(
        make, OfAnswers, rows, batch_size=batch_size, steps=steps, learning_rate=learning_rate,
        schedule=schedule, max_length=max_length, max_grad_norm=max_grad_norm,
    )  # fmt: skip


def run_kto(
    model: str | Path, rows: Sequence[Row], *, batch_size: int, learning_rate: float, steps: int = 5,
    schedule: str = "constant", max_length: int = 512, max_grad_norm: float = 1.0, beta: float = 0.1, **options: Any,
) -> TrlRun:  # fmt: skip
    """``KTOTrainer``; rows ``prompt, completion, label``. The reference is the model's start; the KL term is that of
    each batch, its answers moved on by one row. ``options``: ``desirable_weight`` ...

    Logs ``loss, grad_norm, learning_rate, kl, rewards/{chosen,rejected,margins}, logps/*, logits/*, entropy,
    num_tokens``.
    """

    def make(trainer: type, arguments: dict[str, Any], data: Dataset) -> Any:
        config = KTOConfig(**arguments, disable_dropout=True, beta=beta, **options)
        return trainer(
            causal(model),
            ref_model=causal(model),
            args=config,
            train_dataset=data,
            processing_class=tokenizer_of(model),
        )

    return run_trainer(
        make, KTOTrainer, rows, batch_size=batch_size, steps=steps, learning_rate=learning_rate,
        schedule=schedule, max_length=max_length, max_grad_norm=max_grad_norm,
    )  # fmt: skip


def tokenizer_of(folder: str | Path) -> Any:
    """The folder's tokenizer; refuses one whose padding is its EOS, which would hide the EOS from the loss."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ValueError(f"{folder}: the tokenizer needs a padding token other than its EOS")
    return tokenizer
