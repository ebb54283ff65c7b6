"""Encoder-decoders (T5, BART and kin): the encoder reads the prompt, the decoder writes the answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import GenerationConfig

from distft.config.models import Model
from distft.models.dropout import keep_layers, switch_off
from distft.models.encoder_decoder import SelectedAnswers
from distft.models.families.family import Arranged, Loaded
from distft.models.families.speaking import Speaking
from distft.models.load import load_config, read_weights, require_all, without_weights
from distft.models.tying import seq2seq_class
from distft.planning.encoder_decoders import require_tried

log = logging.getLogger(__name__)


def load_seq2seq(path: str, model: Model, *, dropout: bool, on_meta: bool = False) -> SelectedAnswers:
    """An encoder-decoder with a language model's head, its own where the files hold one; see ``load_causal``.

    Raises UserError for anything that is not one, lacks weights, or does not say with which token an answer begins.
    """
    written = load_config(path, model)
    require_tried(written.to_dict(), path)
    config = deepcopy(written)
    keep_layers(config)
    if not dropout:
        switch_off(config)
    kind = seq2seq_class(path, config, fetch=not on_meta)
    module, missing = read_weights(kind, path, config, model, "as an encoder-decoder", on_meta=on_meta)
    require_all(missing, path)
    fused = model.kernels != "none" and not on_meta
    answers = SelectedAnswers(module, path, written, fused=fused)
    if fused and answers.logit_map is None:
        log.info("%s: its logits are more than its head's product, so they are computed whole", type(module).__name__)
    return answers


def empty_seq2seq(path: str, model: Model) -> Any:
    """As ``empty_causal``; with a head of its own where the files at ``path`` hold one."""
    config = load_config(path, model)
    module = without_weights(seq2seq_class(path, config, fetch=False), config, model)
    with suppress(OSError):
        module.generation_config = GenerationConfig.from_pretrained(path)
    return module


def apart(
    prompts: Sequence[npt.NDArray[Any]], responses: Sequence[npt.NDArray[Any]], pad_token: int, unread: int | None
) -> Arranged:
    """``input_ids`` and ``attention_mask [rows, longest prompt]``, ``answer_ids [rows, longest response]``, padded on
    the right. Behind its start token the decoder predicts token k of an answer at its position k."""
    width, written = max(1, *map(len, prompts)), max(1, *map(len, responses))
    input_ids = np.full((len(prompts), width), pad_token, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    answer_ids = np.full((len(prompts), written), pad_token, dtype=np.int64)
    last = np.zeros(len(prompts), np.int64)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        input_ids[row, : len(prompt)] = prompt
        attention_mask[row, : max(1, len(prompt))] = 1  # of a prompt without tokens one padding is read: no row of
        answer_ids[row, : len(response)] = response  # attention may be empty
        read = np.arange(len(response)) if unread is None else np.flatnonzero(response != unread)
        last[row] = row * written + (int(read[-1]) if len(read) else 0)
    arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "answer_ids": answer_ids}
    return Arranged(arrays, np.arange(len(prompts), dtype=np.int64) * written, last)


class Seq2Seq(Speaking):
    """See ``Speaking``."""

    peft_task = "SEQ_2_SEQ_LM"
    empty = staticmethod(empty_seq2seq)
    arrange = staticmethod(apart)

    def load(self, path: str, model: Model, *, dropout: bool, new_head: bool = False, on_meta: bool = False) -> Loaded:
        """See ``load_seq2seq``; its head is never new."""
        del new_head
        return Loaded(load_seq2seq(path, model, dropout=dropout, on_meta=on_meta))

    def positions(self, prompt: int, response: int) -> int:
        """See ``Family``: each side has its own."""
        return max(prompt, response)
