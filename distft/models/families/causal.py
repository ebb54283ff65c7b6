"""Causal language models: policies and references. Read for the log-probabilities of tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from distft.config.models import Model
from distft.models.dropout import keep_layers, switch_off
from distft.models.families.decoder import in_one_row
from distft.models.families.family import Family, Loaded, ModelInputs
from distft.models.load import load_config, read_weights, require_all, without_weights
from distft.models.selected import Reading, SelectedLogits
from distft.models.stops import stop_tokens

log = logging.getLogger(__name__)


def load_causal(path: str, model: Model, *, dropout: bool, on_meta: bool = False) -> SelectedLogits:
    """A causal language model, with ``dropout`` False every dropout of it 0, the functional one in attention too.

    ``on_meta``: names and sizes only, from the files' headers, in no memory; what would raise raises the same.
    Raises UserError for anything that is not one, or lacks weights.
    """
    written = load_config(path, model)
    config = deepcopy(written)
    keep_layers(config)
    if not dropout:
        switch_off(config)
    purpose = "as a causal language model"
    module, missing = read_weights(AutoModelForCausalLM, path, config, model, purpose, on_meta=on_meta)
    require_all(missing, path)
    fused = model.kernels != "none" and not on_meta
    selected = SelectedLogits(module, written, fused=fused)
    if fused and selected.logit_map is None:
        log.info("%s: its logits are more than its head's product, so they are computed whole", type(module).__name__)
    return selected


def empty_causal(path: str, model: Model) -> Any:
    """The architecture of a causal language model, all of it on the meta device: for the export of weights
    that lie elsewhere. Raises UserError when there is no model.
    """
    module = without_weights(AutoModelForCausalLM, load_config(path, model), model)
    with suppress(OSError):  # a folder need not have any; then they follow from config.json
        module.generation_config = GenerationConfig.from_pretrained(path)
    return module


class Causal(Family):
    """See ``Family``: outputs ``logprobs``, ``entropy``, ``logits_mean``."""

    main_output = "logprobs"
    peft_task = "CAUSAL_LM"
    empty = staticmethod(empty_causal)
    arrange = staticmethod(in_one_row)
    stops = staticmethod(stop_tokens)

    def load(self, path: str, model: Model, *, dropout: bool, new_head: bool = False, on_meta: bool = False) -> Loaded:
        """See ``load_causal``; its head is never new."""
        del new_head
        return Loaded(load_causal(path, model, dropout=dropout, on_meta=on_meta))

    def positions(self, prompt: int, response: int) -> int:
        """See ``Family``: one behind the other."""
        return prompt + response

    def outputs(
        self, forward: Callable[..., Any], inputs: ModelInputs, wanted: Sequence[str], reads: str, temperature: float
    ) -> dict[str, Tensor]:
        """See ``Family``: of tokens, whatever ``reads`` says."""
        del reads
        reading = Reading(inputs.targets, tuple(wanted), temperature)
        found: dict[str, Tensor] = forward(**inputs.tensors, select=inputs.select, reading=reading)
        return found
