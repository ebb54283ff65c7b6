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
* what samples is given its answers: ``batch_size`` of them a step, ``num_generations`` to a prompt; an iteration is
  ``num_iterations`` steps over the same answers, and what is said of these is logged at the first of them.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
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
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
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


def in_order(trainer_class: type, run: TrlRun) -> type:
    """The trainer with rows taken in order and every batch written down."""

    class Recording(trainer_class):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:
            return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

        def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
            run.batches.append(unpadded(inputs))
            step: torch.Tensor = super().training_step(model, inputs, *rest)
            return step

    return Recording


def answering(answers: Iterator[list[list[int]]], trainer_class: type, run: TrlRun) -> type:
    """The trainer of what samples, its rows in order too, which takes ``answers`` in place of the model's own: those
    of each iteration, the answers to a prompt together."""

    class Answering(trainer_class):  # type: ignore[misc]
        def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any) -> Any:
            found = next(answers)
            run.batches.append(Batch([p + a for p, a in zip(prompt_ids, found, strict=True)], []))
            return (found, None) if issubclass(trainer_class, GRPOTrainer) else found

    return Answering


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
    folder: str,
    *,
    batch_size: int,
    learning_rate: float,
    steps: int = 5,
    schedule: str = "constant",
    max_grad_norm: float = 1.0,
) -> dict[str, Any]:
    return {
        "output_dir": folder, "per_device_train_batch_size": batch_size, "gradient_accumulation_steps": 1,
        "max_steps": steps, "learning_rate": learning_rate, "lr_scheduler_type": schedule, "warmup_steps": 0,
        "weight_decay": 0.0, "optim": "adamw_torch", "max_grad_norm": max_grad_norm,
        "bf16": False, "fp16": False, "use_cpu": True, "gradient_checkpointing": False, "seed": 1,
        "logging_steps": 1, "logging_first_step": True, "report_to": "none", "save_strategy": "no",
        "disable_tqdm": True, "dataloader_num_workers": 0, "train_sampling_strategy": "sequential",
    }  # fmt: skip


def causal(folder: str | Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attention_dropout=0.0)


def sampling(folder: str | Path) -> Any:
    """Where the padding token may be sampled like any other, its embedding learns too: torch would hold it back."""
    model = causal(folder)
    model.get_input_embeddings().padding_idx = None
    return model


def scalar(folder: str | Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, num_labels=1)


def tokenizer_of(folder: str | Path) -> Any:
    """The folder's tokenizer; refuses one whose padding is its EOS, which would hide the EOS from the loss."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ValueError(f"{folder}: the tokenizer needs a padding token other than its EOS")
    return tokenizer


def experimental_orpo() -> tuple[type, type]:
    """``ORPOTrainer`` of ``trl.experimental``, but that it imitates as the paper says: the mean over the chosen
    answer's own tokens, and every pair weighs the same. TRL's own takes the prompt's tokens too, all in one mean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    class OfAnswers(ORPOTrainer):  # type: ignore[misc]
        def concatenated_forward(self, *arguments: Any) -> tuple[Any, ...]:
            chosen, *found, _ = super().concatenated_forward(*arguments)
            return chosen, *found, -chosen.mean()

    return OfAnswers, ORPOConfig


@dataclass(frozen=True)
class Method:
    """How TRL trains by a method. ``classes``: trainer and its config; ``keys`` of the config unless a run says
    otherwise; ``referenced``: the trainer is given the reference."""

    classes: Callable[[], tuple[type, type]]
    keys: Mapping[str, Any]
    model: Callable[[str | Path], Any] = causal
    tokenizer: Callable[[str | Path], Any] = tokenizer_of
    referenced: bool = False


_LIMITED = {"disable_dropout": True, "max_length": 512}
_SAMPLING = {"disable_dropout": True, "shuffle_dataset": False}
METHODS: dict[str, Method] = {
    "sft": Method(lambda: (SFTTrainer, SFTConfig), {"packing": False, "max_length": 512}),
    "reward": Method(lambda: (RewardTrainer, RewardConfig), _LIMITED, scalar, AutoTokenizer.from_pretrained),
    "dpo": Method(lambda: (DPOTrainer, DPOConfig), {**_LIMITED, "beta": 0.1}, referenced=True),
    "orpo": Method(experimental_orpo, {**_LIMITED, "beta": 0.1}),
    "kto": Method(lambda: (KTOTrainer, KTOConfig), {**_LIMITED, "beta": 0.1}, referenced=True),
    "grpo": Method(lambda: (GRPOTrainer, GRPOConfig), _SAMPLING, sampling),
    "rloo": Method(lambda: (RLOOTrainer, RLOOConfig), _SAMPLING, sampling),
}
_TRAINERS_OWN = ("batch_size", "learning_rate", "steps", "schedule", "max_grad_norm")


def run_trl(
    method: str,
    model: str | Path,
    rows: Sequence[Row],
    *,
    reference: str | Path | None = None,
    adapted: Callable[[Any], Any] | None = None,
    answers: Sequence[list[list[int]]] = (),
    rewards: Sequence[Callable[..., Any]] = (),
    **options: Any,
) -> TrlRun:
    """A run of the trainer of ``METHODS``, and what it logged under TRL's names.

    ``rows``: ``text``, ``prompt, completion`` or ``messages`` (sft, completion learned only), ``[prompt,] chosen,
    rejected`` (reward, dpo, orpo), ``prompt, completion, label`` (kto), ``prompt`` (grpo, rloo). ``options``:
    ``batch_size, learning_rate, steps, schedule, max_grad_norm``, and any key of TRL's config.

    ``reference``: another than the model's start. ``adapted`` makes a PEFT model of the start; then the reference is
    its base, and the weights are merged. ``answers``: of each iteration, in place of what grpo and rloo would sample,
    for the reward functions ``rewards``.
    """
    how = METHODS[method]
    trainer_class, config_class = how.classes()
    run = TrlRun()
    recorded = partial(answering, iter(answers)) if answers else in_order
    common = {name: options.pop(name) for name in _TRAINERS_OWN if name in options}
    given: dict[str, Any] = {"reward_funcs": list(rewards)} if rewards else {}
    if how.referenced:
        given["ref_model"] = how.model(reference or model) if adapted is None else None
    with tempfile.TemporaryDirectory() as folder:
        start = how.model(model)
        trainer = recorded(trainer_class, run)(
            model=start if adapted is None else adapted(start),
            args=config_class(**common_arguments(folder, **common), **{**how.keys, **options}),
            train_dataset=Dataset.from_list([{**row, "row": number} for number, row in enumerate(rows)]),
            processing_class=how.tokenizer(model),
            **given,
        )
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        run.rows = list(trainer.train_dataset["row"])
        trainer.train()
        run.logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        trained = trainer.model.merge_and_unload() if isinstance(trainer.model, PeftModel) else trainer.model
        run.weights = {name: value.detach().clone() for name, value in trained.state_dict().items()}
    return run
