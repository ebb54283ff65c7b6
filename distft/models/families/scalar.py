"""Decoders with a scalar head: reward and value models. Read for one number a token, or one a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from distft.common.errors import UserError
from distft.config.models import Model, ScoringModel
from distft.models.dropout import switch_off
from distft.models.families.decoder import Decoder
from distft.models.families.family import Family, Loaded, ModelInputs
from distft.models.families.head import new_parts, settle_outputs
from distft.models.load import load_config, read_weights, without_weights
from distft.models.selected import SelectedScalars


def load_scalar(
    path: str, model: Model, *, dropout: bool, new_head: bool, on_meta: bool = False, labels: Sequence[str] = ()
) -> tuple[SelectedScalars, bool]:
    """A backbone with a scalar head, or one with an output for each of the ``labels``, and whether that head is fresh
    (still to be started by the caller); see ``load_causal``.

    Raises UserError when the head's weights are missing and ``new_head`` is False: a reward model with
    a random head would score at random and nothing would tell.
    """
    written = load_config(path, model)
    config = deepcopy(written)
    if not dropout:
        switch_off(config)
    output = settle_outputs(path, config, model, labels)
    purpose = "with a scalar head"
    module, missing = read_weights(AutoModelForSequenceClassification, path, config, model, purpose, on_meta=on_meta)
    if not isinstance(getattr(module, "score", None), nn.Module):
        raise UserError(
            f"{type(module).__name__} has no head named `score` that reads one position",
            where=path,
            hint="take a decoder (Llama, Qwen, Gemma, GPT-2, ...) for reward and value models",
        )
    fresh = bool(new_parts(missing, ("score.weight", "score.bias"), path, allowed=new_head))
    probability = isinstance(model, ScoringModel) and model.score == "probability"
    return SelectedScalars(module, output, probability=probability, written=written), fresh


def empty_scalar(path: str, model: Model, labels: Sequence[str] = ()) -> Any:
    """As ``empty_causal``, with a scalar head, or one for the ``labels``, in place of the vocabulary's."""
    config = load_config(path, model)
    if labels:
        settle_outputs(path, config, model, labels)
    else:
        config.num_labels = 1
    return without_weights(AutoModelForSequenceClassification, config, model)


@dataclass(frozen=True)
class Scalar(Decoder, Family):
    """See ``Family``: outputs ``values``, and ``logits`` of all outputs. ``labels``: of a classifier to be trained."""

    labels: tuple[str, ...] = ()

    main_output = "values"
    peft_task = "SEQ_CLS"

    def load(self, path: str, model: Model, *, dropout: bool, new_head: bool = False, on_meta: bool = False) -> Loaded:
        """See ``load_scalar``."""
        module, fresh = load_scalar(
            path, model, dropout=dropout, new_head=new_head, on_meta=on_meta, labels=self.labels
        )
        return Loaded(module, {"score.weight": module.model.score.weight} if fresh else {})

    def empty(self, path: str, model: Model) -> Any:
        """See ``empty_scalar``."""
        return empty_scalar(path, model, self.labels)

    def outputs(
        self, forward: Callable[..., Any], inputs: ModelInputs, wanted: Sequence[str], reads: str, temperature: float
    ) -> dict[str, Tensor]:
        """See ``Family``: where a token is predicted, a value is read; of whole rows at their ends."""
        del temperature
        select = inputs.last if reads == "last" else inputs.select
        if "logits" in wanted:
            return {"logits": forward(**inputs.tensors, select=select, every_output=True)}
        return {"values": forward(**inputs.tensors, select=select)}

    def stops(self, tokenizer: Any, module: Any, named: Sequence[str] | None) -> tuple[int, ...]:
        """None: it gives no responses."""
        del tokenizer, module, named
        return ()
