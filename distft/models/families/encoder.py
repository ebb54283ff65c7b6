"""Encoders with a head (BERT, RoBERTa, ModernBERT, DeBERTa): reward models and classifiers of whole texts.

Every token sees all others, so padding is masked, and a text, or a pair of them, is read as a whole: the model's own
head pools as its family does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from distft.config.models import Model, ScoringModel
from distft.models.adapters.layers import scoring_heads
from distft.models.dropout import switch_off
from distft.models.families.family import Arranged, Family, Loaded, ModelInputs
from distft.models.families.head import new_parts, settle_outputs
from distft.models.load import load_config, read_weights, without_weights


class EncoderScores(nn.Module):
    """An encoder's answers for whole rows: of a head of several outputs the one numbered ``output``, as a logit or,
    with ``probability``, after the softmax over all of them."""

    def __init__(self, model: Any, output: int = 0, *, probability: bool = False, written: Any = None) -> None:
        super().__init__()
        self.model = model
        self.written = written or model.config
        self._output, self._probability = output, probability
        # One kind of token is none to tell apart, and some families take no such argument.
        kinds = getattr(model.config, "type_vocab_size", 0) or 0
        self._has_types = kinds > 1 and "token_type_ids" in inspect.signature(model.forward).parameters

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, *, every_output: bool = False
    ) -> Tensor:
        """``[rows]`` in float32; with ``every_output`` the logits ``[rows, outputs]``."""
        types = {"token_type_ids": token_type_ids} if self._has_types else {}
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask, **types).logits.to(torch.float32)
        if every_output:
            return cast(Tensor, logits)
        scores = logits.softmax(dim=-1) if self._probability else logits
        return cast(Tensor, scores[:, self._output])


def as_pairs(
    prompts: Sequence[npt.NDArray[Any]], responses: Sequence[npt.NDArray[Any]], pad_token: int, unread: int | None
) -> Arranged:
    """``input_ids``: prompt, response, padding, which ``attention_mask`` hides; ``token_type_ids`` 1 for a response to
    a prompt. Nothing is predicted, and where a row is read is the model's affair."""
    del unread
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    shape = (len(prompts), max(1, *lengths))
    input_ids = np.full(shape, pad_token, dtype=np.int64)
    attention_mask, token_type_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        input_ids[row, : lengths[row]] = np.concatenate([prompt, response])
        attention_mask[row, : max(1, lengths[row])] = 1
        if len(prompt):
            token_type_ids[row, len(prompt) : lengths[row]] = 1
    nowhere = np.zeros(len(prompts), np.int64)
    arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
    return Arranged(arrays, nowhere, nowhere)


@dataclass(frozen=True)
class Encoder(Family):
    """See ``Family``: outputs ``values``, and ``logits`` of whole rows. ``labels``: of a classifier to be trained."""

    labels: tuple[str, ...] = ()

    main_output = "values"
    peft_task = "SEQ_CLS"
    arrange = staticmethod(as_pairs)

    def load(self, path: str, model: Model, *, dropout: bool, new_head: bool = False, on_meta: bool = False) -> Loaded:
        """See ``Family``. What pools is part of the head: a model that was trained on masked tokens has none."""
        written = load_config(path, model)
        config = deepcopy(written)
        if not dropout:
            switch_off(config)
        output = settle_outputs(path, config, model, self.labels)
        purpose = "with a head on whole texts"
        kind = AutoModelForSequenceClassification
        whole = () if model.quantization is None else _head(without_weights(kind, config, model))
        module, missing = read_weights(kind, path, config, model, purpose, on_meta=on_meta, whole=whole)
        named = dict(module.named_parameters())
        own = [name for name in named if _is_of_head(name, module.base_model_prefix)]
        fresh = new_parts(missing, own, path, allowed=new_head)
        probability = isinstance(model, ScoringModel) and model.score == "probability"
        scores = EncoderScores(module, output, probability=probability, written=written)
        return Loaded(scores, {name: named[name] for name in fresh})

    def empty(self, path: str, model: Model) -> Any:
        """See ``Family``."""
        config = load_config(path, model)
        settle_outputs(path, config, model, self.labels)
        return without_weights(AutoModelForSequenceClassification, config, model)

    def positions(self, prompt: int, response: int) -> int:
        """See ``Family``: both are one row."""
        return prompt + response

    def outputs(
        self, forward: Callable[..., Any], inputs: ModelInputs, wanted: Sequence[str], reads: str, temperature: float
    ) -> dict[str, Tensor]:
        """See ``Family``: of whole rows. Raises ValueError where single tokens are to be read."""
        del temperature
        if reads != "last":
            raise ValueError("an encoder scores whole texts, not single tokens")
        if "logits" in wanted:
            return {"logits": forward(**inputs.tensors, every_output=True)}
        return {"values": forward(**inputs.tensors)}

    def stops(self, tokenizer: Any, module: Any, named: Sequence[str] | None) -> tuple[int, ...]:
        """None: it gives no responses."""
        del tokenizer, module, named
        return ()


def _head(model: Any) -> list[str]:
    """The modules that make scores of states, which may be new: there is nothing quantized to begin with."""
    heads = scoring_heads(model)
    return [name for name, part in model.named_modules() if any(part is head for head in heads)]


def _is_of_head(name: str, backbone: str) -> bool:
    return not name.startswith(f"{backbone}.") or ".pooler." in name
