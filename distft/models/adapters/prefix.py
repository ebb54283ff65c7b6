"""Virtual tokens whose keys and values stand before those of every sequence, in every layer (prefix tuning): they lie
in the cache that the model's decoder is given, so that nobody else need know of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from distft.common.errors import UserError
from distft.config.adapters.prefix import PrefixTuning
from distft.models.adapters.virtual_tokens import BeforeSequences, drawn, kept_in, key_heads, say_to_peft, widths


class Prefix(BeforeSequences):
    """Makes ``[num, layers * 2 * heads * size]``, as PEFT lays them out; ``heads``: how many have keys, and how wide
    those are."""

    def __init__(self, start: Tensor, encoder: nn.Sequential | None, heads: tuple[int, int]) -> None:
        super().__init__(start, encoder)
        self._heads = heads

    def put_before(self, _decoder: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Of a decoder's call: whole sequences get a cache in which they are; where one goes on from such a cache, it
        knows where it stands."""
        if not self.enabled:
            return None
        told = dict(given)
        if args:
            told["input_ids"] = args[0]
        mask, positions, cache = (given.get(key) for key in ("attention_mask", "position_ids", "past_key_values"))
        if mask is not None:
            told["attention_mask"] = torch.cat([mask.new_ones(len(mask), self.number), mask], dim=1)
        if positions is not None:
            told["position_ids"] = positions + self.number
        if cache is None:
            cache = told["past_key_values"] = DynamicCache()
        if not cache.get_seq_length():
            for layer, (keys, values) in enumerate(self._by_layer(len(told["input_ids"]))):
                cache.update(keys, values, layer)
        return args[1:], told

    def _by_layer(self, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values ``[rows, heads, num, size]``."""
        found = self(rows).view(rows, self.number, -1, *self._heads).permute(2, 0, 3, 1, 4)
        yield from zip(found[::2], found[1::2], strict=True)


def add(model: Any, prefix: PrefixTuning, *, dropout: bool, seed: int, fresh: bool) -> None:  # noqa: ARG001 - none
    """Puts keys and values before those of a decoder's sequences. Raises UserError where a layer would lose sight of
    them."""
    from peft import PrefixTuningConfig

    if "sliding_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ()):
        what = f"layers of {type(model).__name__} see a window of a sequence only, and prefix stands before all of it"
        raise UserError(
            what, where="peft.method", hint="prompt, which has been compared with PEFT's there too, or lora"
        )

    _attach(model, *drawn(model, prefix, seed))
    _, width, layers = widths(model)
    say_to_peft(model, PrefixTuningConfig(
        num_virtual_tokens=prefix.num_virtual_tokens,
        token_dim=width,
        num_transformer_submodules=1,
        num_attention_heads=key_heads(model)[0],
        num_layers=layers,
        prefix_projection=prefix.projection,
        encoder_hidden_size=prefix.encoder_hidden_size or width,
    ))  # fmt: skip


def read(model: Any, folder: str) -> Any:
    """The model with what lies in a folder of PEFT's. Raises KeyError where it holds none."""
    _attach(model, kept_in(folder).to(dtype=model.dtype, device=model.device), None)
    return model


def _attach(model: Any, start: Tensor, encoder: nn.Sequential | None) -> None:
    tokens = model.virtual_tokens = Prefix(start, encoder, key_heads(model))
    model.get_decoder().register_forward_pre_hook(tokens.put_before, with_kwargs=True)
