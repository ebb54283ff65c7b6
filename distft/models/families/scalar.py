"""Decoders with a scalar head: reward and value models. Read for one number a token, or one a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from distft.common.errors import UserError
from distft.config.models import Model, RewardModel
from distft.models.dropout import switch_off
from distft.models.families.decoder import in_one_row
from distft.models.families.family import Family, Loaded, ModelInputs
from distft.models.load import load_config, read_weights, require_all, without_weights
from distft.models.selected import SelectedScalars


def load_scalar(
    path: str, model: Model, *, dropout: bool, new_head: bool, on_meta: bool = False
) -> tuple[SelectedScalars, bool]:
    """A backbone with a scalar head, and whether that head is fresh (still to be started by the caller); see
    ``load_causal``.

    Raises UserError when the head's weights are missing and ``new_head`` is False: a reward model with
    a random head would score at random and nothing would tell.
    """
    written = load_config(path, model)
    config = deepcopy(written)
    if not dropout:
        switch_off(config)
    output = _rewarded_output(path, config, model)
    purpose = "with a scalar head"
    module, missing = read_weights(AutoModelForSequenceClassification, path, config, model, purpose, on_meta=on_meta)
    if not isinstance(getattr(module, "score", None), nn.Module):
        raise UserError(
            f"{type(module).__name__} has no head named `score` that reads one position",
            where=path,
            hint="take a decoder (Llama, Qwen, Gemma, GPT-2, ...) for reward and value models",
        )
    fresh = any(key.startswith("score.") for key in missing)
    missing = [key for key in missing if not key.startswith("score.")]
    require_all(missing, path)
    if fresh and not new_head:
        raise UserError(
            "has no scalar head (score.weight): it is not a reward model",
            where=path,
            hint="train one with a `reward` recipe, or name a reward model",
        )
    probability = isinstance(model, RewardModel) and model.score == "probability"
    return SelectedScalars(module, output, probability=probability, written=written), fresh


def _rewarded_output(path: str, config: Any, model: Model) -> int:
    """Which output of the head is the scalar: that of the label the recipe names, else the only one."""
    label = model.label if isinstance(model, RewardModel) else None
    if label is not None:
        numbers = {str(name): int(number) for number, name in config.id2label.items()}
        if label not in numbers:
            raise UserError(f"has no label {label}", where=path, hint=f"it has: {', '.join(sorted(numbers))}")
        return numbers[label]
    is_classifier = any("SequenceClassification" in name for name in config.architectures or ())
    if is_classifier and config.num_labels != 1:
        raise UserError(
            f"its head has {config.num_labels} outputs, a scalar head has one",
            where=path,
            hint="for a classifier's score name the output: models.reward.label",
        )
    config.num_labels = 1
    return 0


def empty_scalar(path: str, model: Model) -> Any:
    """As ``empty_causal``, with a scalar head in place of the vocabulary's."""
    config = load_config(path, model)
    config.num_labels = 1
    return without_weights(AutoModelForSequenceClassification, config, model)


class Scalar(Family):
    """See ``Family``: output ``values``."""

    main_output = "values"
    peft_task = "SEQ_CLS"
    empty = staticmethod(empty_scalar)
    arrange = staticmethod(in_one_row)

    def load(self, path: str, model: Model, *, dropout: bool, new_head: bool = False, on_meta: bool = False) -> Loaded:
        """See ``load_scalar``."""
        module, fresh = load_scalar(path, model, dropout=dropout, new_head=new_head, on_meta=on_meta)
        return Loaded(module, module.model.score.weight if fresh else None)

    def positions(self, prompt: int, response: int) -> int:
        """See ``Family``: one behind the other."""
        return prompt + response

    def outputs(
        self, forward: Callable[..., Any], inputs: ModelInputs, wanted: Sequence[str], reads: str, temperature: float
    ) -> dict[str, Tensor]:
        """See ``Family``: where a token is predicted, a value is read; of whole rows at their ends."""
        del wanted, temperature
        return {"values": forward(**inputs.tensors, select=inputs.last if reads == "last" else inputs.select)}

    def stops(self, tokenizer: Any, module: Any, named: Sequence[str] | None) -> tuple[int, ...]:
        """None: it gives no responses."""
        del tokenizer, module, named
        return ()
