"""Encoders and decoders without a head, whose states are pooled into a vector of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AutoModel

from distft.common.errors import UserError
from distft.config.models import Model
from distft.models.dropout import keep_layers, switch_off
from distft.models.families.encoder import as_pairs
from distft.models.families.family import Arranged, Family, Loaded, ModelInputs
from distft.models.load import load_config, read_weights, require_all, without_weights


class PooledStates(nn.Module):
    """A backbone whose last states are pooled, as ``sentence-transformers`` pools them. ``written``: the config that
    stands in the model's files."""

    def __init__(self, model: Any, written: Any = None) -> None:
        super().__init__()
        self.model = model
        self.written = written or model.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor, reads: str) -> Tensor:
        """``[rows, hidden]`` in float32: the ``mean`` of the states that ``attention_mask`` shows, the first one
        (``cls``) or the ``last``. Rows are padded on the right."""
        options = {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, **options)
        states: Tensor = found.last_hidden_state.to(torch.float32)
        if reads == "mean":
            shown = attention_mask[:, :, None].to(torch.float32)
            return (states * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1)
        rows = torch.arange(len(states), device=states.device)
        return states[rows, attention_mask.sum(dim=1) - 1 if reads == "last" else torch.zeros_like(rows)]


def as_texts(
    prompts: Sequence[npt.NDArray[Any]], responses: Sequence[npt.NDArray[Any]], pad_token: int, unread: int | None
) -> Arranged:
    """The arrays of ``as_pairs`` without what tells the texts of a pair apart."""
    arranged = as_pairs(prompts, responses, pad_token, unread)
    arrays = {name: arranged.arrays[name] for name in ("input_ids", "attention_mask")}
    return Arranged(arrays, arranged.first, arranged.last)


class TextEmbedding(Family):
    """See ``Family``: output ``embeddings``, ``[rows, hidden]``, pooled as ``reads`` says."""

    main_output = "embeddings"
    peft_task = "FEATURE_EXTRACTION"
    arrange = staticmethod(as_texts)

    def load(self, path: str, model: Model, *, dropout: bool, new_head: bool = False, on_meta: bool = False) -> Loaded:
        """See ``Family``. A pooler of the family's own is not read and not trained: files that lack it are whole."""
        del new_head
        written = load_config(path, model)
        _require_one_side(written, path)
        config = deepcopy(written)
        keep_layers(config)
        if not dropout:
            switch_off(config)
        module, missing = read_weights(AutoModel, path, config, model, "as a model of texts", on_meta=on_meta)
        unused = {name: one for name, one in module.named_parameters() if name.startswith("pooler.")}
        require_all([name for name in missing if name not in unused], path)
        for parameter in unused.values():
            parameter.requires_grad_(requires_grad=False)
        return Loaded(PooledStates(module, written), {name: unused[name] for name in missing})

    def empty(self, path: str, model: Model) -> Any:
        """See ``Family``."""
        config = load_config(path, model)
        _require_one_side(config, path)
        return without_weights(AutoModel, config, model)

    def positions(self, prompt: int, response: int) -> int:
        """See ``Family``: both are one row."""
        return prompt + response

    def outputs(
        self, forward: Callable[..., Any], inputs: ModelInputs, wanted: Sequence[str], reads: str, temperature: float
    ) -> dict[str, Tensor]:
        """See ``Family``: of whole rows. Raises ValueError where single tokens are to be read."""
        del wanted, temperature
        if reads == "tokens":
            raise ValueError("a text has one vector, its tokens have none")
        return {"embeddings": forward(**inputs.tensors, reads=reads)}

    def stops(self, tokenizer: Any, module: Any, named: Sequence[str] | None) -> tuple[int, ...]:
        """None: it gives no responses."""
        del tokenizer, module, named
        return ()


def _require_one_side(config: Any, path: str) -> None:
    if getattr(config, "is_encoder_decoder", False):
        what = f"{config.model_type} is an encoder-decoder: its encoder alone is not taken for a model of texts here"
        raise UserError(what, where=path, hint="take an encoder (BERT, RoBERTa, ModernBERT, DeBERTa) or a decoder")
