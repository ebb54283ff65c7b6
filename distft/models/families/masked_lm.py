"""Encoders with a language model's head: read for the log-probabilities of the tokens that are hidden from them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from transformers import AutoModelForMaskedLM

from distft.config.models import Model
from distft.models.dropout import switch_off
from distft.models.families.family import Arranged, Loaded
from distft.models.families.speaking import Speaking
from distft.models.load import load_config, read_weights, require_all, without_weights
from distft.models.selected import Reading, SelectedLogits, as_read


class MaskedLogits(SelectedLogits):
    """An encoder that computes its head at the selected positions only; see ``SelectedLogits``."""

    def around(self, model: Any) -> MaskedLogits:
        """See ``SelectedLogits``."""
        return MaskedLogits(model, self.written)

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor, select: Tensor, reading: Reading | None = None
    ) -> Any:
        """See ``SelectedLogits``. Every token sees all others, so padding is hidden by ``attention_mask``."""
        self._select = select
        try:
            logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        finally:
            self._select = None
        return as_read(logits.reshape(-1, logits.shape[-1]), reading)


def in_its_place(
    prompts: Sequence[npt.NDArray[Any]], responses: Sequence[npt.NDArray[Any]], pad_token: int, unread: int | None
) -> Arranged:
    """``input_ids``: the texts as they are read (``prompts``), padding, which ``attention_mask`` hides. Token k of the
    whole text (``responses``) is predicted at its own place."""
    del unread
    width = max(1, *map(len, prompts))
    input_ids = np.full((len(prompts), width), pad_token, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = prompt
        attention_mask[row, : max(1, len(prompt))] = 1
    first = np.arange(len(prompts), dtype=np.int64) * width
    ends = np.array([max(0, len(response) - 1) for response in responses], np.int64)
    return Arranged({"input_ids": input_ids, "attention_mask": attention_mask}, first, first + ends)


class MaskedLm(Speaking):
    """See ``Speaking``. It writes nothing."""

    peft_task = "FEATURE_EXTRACTION"
    arrange = staticmethod(in_its_place)

    def load(self, path: str, model: Model, *, dropout: bool, new_head: bool = False, on_meta: bool = False) -> Loaded:
        """See ``Family``; its head is never new."""
        del new_head
        written = load_config(path, model)
        config = deepcopy(written)
        if not dropout:
            switch_off(config)
        purpose = "as a masked language model"
        module, missing = read_weights(AutoModelForMaskedLM, path, config, model, purpose, on_meta=on_meta)
        require_all(missing, path)
        return Loaded(MaskedLogits(module, written))

    def empty(self, path: str, model: Model) -> Any:
        """See ``Family``."""
        return without_weights(AutoModelForMaskedLM, load_config(path, model), model)

    def positions(self, prompt: int, response: int) -> int:
        """See ``Family``: both are the same text."""
        return max(prompt, response)

    @staticmethod
    def stops(tokenizer: Any, module: Any, named: Sequence[str] | None = None) -> tuple[int, ...]:
        """None: it gives no responses."""
        del tokenizer, module, named
        return ()
