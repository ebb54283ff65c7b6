"""Causal language models: policies and references. Read for the log-probabilities of tokens."""

from __future__ import annotations

import logging
from contextlib import suppress
from copy import deepcopy
from typing import Any

from transformers import AutoModelForCausalLM, GenerationConfig

from distft.config.models import Model
from distft.models.dropout import keep_layers, switch_off
from distft.models.families.decoder import Decoder
from distft.models.families.family import Loaded
from distft.models.families.speaking import Speaking
from distft.models.load import load_config, read_weights, require_all, without_weights
from distft.models.selected import SelectedLogits

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


class Causal(Decoder, Speaking):
    """See ``Speaking``."""

    peft_task = "CAUSAL_LM"
    empty = staticmethod(empty_causal)

    def load(self, path: str, model: Model, *, dropout: bool, new_head: bool = False, on_meta: bool = False) -> Loaded:
        """See ``load_causal``; its head is never new."""
        del new_head
        return Loaded(load_causal(path, model, dropout=dropout, on_meta=on_meta))
