"""Ulysses sequence parallelism (Jacobs et al. 2023, arXiv 2309.14509): ranks share the rows of a micro-batch.

Each has a slice of every row's positions, in all that takes positions one by one. Attention looks at all of them, but
at one head after the other: there each rank has all positions of its share of the heads. One exchange carries them
there, another back. What is read of single tokens is put together on all ranks, so that each computes the whole loss;
its gradient comes back to the rank that has the token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from distft.common.errors import UserError

# Decoders whose attention is a function of queries, keys and values alone: compared with the whole rows (tests).
FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3", "phi3", "olmo2")
_ATTENTION: Final = "distft_ulysses"


@dataclass(frozen=True)
class Sharing:
    """``size`` neighbouring ranks, this one the one numbered ``rank``, that compute the same rows."""

    group: Any
    rank: int
    size: int

    @classmethod
    def join(cls, size: int, timeout_s: float) -> Sharing:
        """Parts all ranks into groups of ``size`` neighbours (collective); their number is a multiple of it."""
        mine, own = dist.get_rank(), None
        for first in range(0, dist.get_world_size(), size):
            group = dist.new_group(list(range(first, first + size)), timeout=timedelta(seconds=timeout_s))
            if first <= mine < first + size:
                own = group
        return cls(own, mine % size, size)

    def sliced(self, input_ids: Tensor, select: Tensor, position_ids: Tensor | None) -> Slice:
        """This rank's part of rows ``[rows, length]``, and of the flat positions that are read. Raises ValueError for
        packed rows, which have ``position_ids`` of their own."""
        if position_ids is not None:
            raise ValueError("packed rows are not shared by ranks")
        length = input_ids.shape[1]
        part = -(-length // self.size)
        start = self.rank * part
        rows = functional.pad(input_ids, (0, part * self.size - length))[:, start : start + part]
        column = select % length
        owner = column // part
        own = (owner == self.rank).nonzero().squeeze(1)
        # A rank that has none reads its first position, which nobody takes: sharded ranks wait for each other's heads.
        local = select[own] // length * part + column[own] - start if len(own) else select.new_zeros(1)
        counts = functional.one_hot(owner, self.size).cumsum(0)
        places = counts.gather(1, owner.unsqueeze(1)).squeeze(1) - 1
        return Slice(
            self, rows.contiguous(), torch.arange(start, start + part, device=rows.device).expand_as(rows), local,
            own if len(own) else own.new_zeros(1), owner, places, max(1, int(counts[-1].max())),
        )  # fmt: skip


@dataclass
class Slice:
    """``input_ids``, ``position_ids`` ``[rows, part]`` and ``select [num_own]`` flat in them, at least one. ``own``:
    which of the tokens that are read these are. Token k is the one at ``places[k]`` of rank ``owner[k]``; none has more
    than ``most``. ``num_attentions``: how often attention has looked at it.
    """

    sharing: Sharing
    input_ids: Tensor
    position_ids: Tensor
    select: Tensor
    own: Tensor
    owner: Tensor
    places: Tensor
    most: int
    num_attentions: int = 0

    @property
    def told(self) -> dict[str, Any]:
        """What a model is told beside its tokens."""
        return {"position_ids": self.position_ids, "ulysses": self}

    def together(self, answers: Any, model: Any) -> Any:
        """Of what ``model`` answered, ``[num_own, ...]`` or a dictionary of such, all tokens' ``[num_tokens, ...]`` on
        every rank. Raises RuntimeError where a layer's attention has not looked beyond the slice.

        Each of the ranks computes the whole loss, with denominators that count every token ``size`` times; together
        their gradients are the loss's own.
        """
        layers = model.config.get_text_config().num_hidden_layers
        if self.num_attentions != layers:
            raise RuntimeError(f"{self.num_attentions} of {layers} layers attended to whole rows")
        if isinstance(answers, Mapping):
            return {name: self._of_all(answer) for name, answer in answers.items()}
        return self._of_all(answers)

    def _of_all(self, answers: Tensor) -> Tensor:
        mine = functional.pad(answers, [0, 0] * (answers.dim() - 1) + [0, self.most - len(answers)])
        every = _exchanged(mine.expand(self.sharing.size, *mine.shape), self.sharing)
        return every.flatten(0, 1)[self.owner * self.most + self.places]


def share_rows(model: Any, size: int, longest: int, where: str) -> None:
    """Has a model's attention exchange its positions for heads, wherever it is given a ``Slice``; else it is sdpa.

    Raises UserError as ``require_shareable``.
    """
    require_shareable(model.config, size, longest, where)
    model.set_attn_implementation(_ATTENTION)


def require_shareable(config: Any, size: int, longest: int, where: str) -> None:
    """Raises UserError where ``size`` ranks cannot share a model's rows of up to ``longest`` tokens: it is not one of
    ``FAMILIES``, its heads do not divide, or its window of attention is shorter than a row."""
    text, at = config.get_text_config(), f"{where}.engine.sequence_parallel"
    if text.model_type not in FAMILIES:
        what = f"rows of {text.model_type} have not been compared when they are shared"
        raise UserError(what, where=at, hint=f"1, or a model of {', '.join(FAMILIES)}")
    heads, window = text.num_attention_heads, getattr(text, "sliding_window", None)
    if heads % size:
        fits = [n for n in range(1, heads + 1) if heads % n == 0]
        what = f"{size} ranks cannot share {heads} heads evenly"
        raise UserError(what, where=at, hint=f"one of: {', '.join(map(str, fits))}")
    if window is not None and -(-longest // size) * size > window:
        what = f"rows of {longest} tokens reach beyond the model's window of {window}"
        raise UserError(what, where=at, hint="1: a rank then computes whole rows, each token of which sees the window")


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    dropout: float = 0.0, scaling: float | None = None, sliding_window: int | None = None, ulysses: Slice | None = None,
    **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """``[rows, heads, part, width]`` to ``[rows, part, heads, width]``. Rows are padded on the right, so that causal
    attention needs no mask."""
    if ulysses is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
            sliding_window=sliding_window, **others,
        )  # fmt: skip
    ulysses.num_attentions += 1
    sharing = ulysses.sharing
    length = query.shape[2] * sharing.size
    if sliding_window is not None and length > sliding_window:
        raise ValueError(f"a row of {length} positions is longer than the window of {sliding_window}")
    copies = sharing.size // math.gcd(sharing.size, key.shape[1])  # where there are fewer keys than ranks
    query, key, value = (
        _heads(each.repeat_interleave(count, dim=1), sharing)
        for each, count in ((query, 1), (key, copies), (value, copies))
    )
    grouped = query.shape[1] != key.shape[1]
    if grouped and not (key.is_cuda and key.dtype != torch.float32):  # no kernel takes them as they are
        ratio = query.shape[1] // key.shape[1]
        key, value, grouped = key.repeat_interleave(ratio, dim=1), value.repeat_interleave(ratio, dim=1), False
    seen = functional.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=grouped
    )
    return _positions(seen, sharing), None


def _heads(every: Tensor, sharing: Sharing) -> Tensor:
    """``[rows, heads, part, width]`` to ``[rows, heads / size, length, width]``."""
    rows, heads, part, width = every.shape
    parts = every.reshape(rows, sharing.size, heads // sharing.size, part, width).transpose(0, 1)
    return _exchanged(parts, sharing).permute(1, 2, 0, 3, 4).reshape(rows, -1, sharing.size * part, width)


def _positions(own: Tensor, sharing: Sharing) -> Tensor:
    """``[rows, heads / size, length, width]`` to ``[rows, part, heads, width]``."""
    rows, heads, length, width = own.shape
    parts = own.reshape(rows, heads, sharing.size, length // sharing.size, width).permute(2, 0, 1, 3, 4)
    return _exchanged(parts, sharing).permute(1, 3, 0, 2, 4).reshape(rows, -1, sharing.size * heads, width)


def _exchanged(parts: Tensor, sharing: Sharing) -> Tensor:
    """``parts[i]`` to rank i; the result's ``[i]`` is from rank i."""
    exchanged: Tensor = _Exchange.apply(parts, sharing.group)  # type: ignore[no-untyped-call]
    return exchanged


class _Exchange(torch.autograd.Function):
    """All to all; gradients go back the way that the values came."""

    @staticmethod
    def forward(context: Any, parts: Tensor, group: Any) -> Tensor:
        context.group = group
        return _all_to_all(parts, group)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _all_to_all(gradient, context.group), None


def _all_to_all(parts: Tensor, group: Any) -> Tensor:
    """As bytes, whatever types the backend knows."""
    sent = parts.contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received.view(torch.uint8), sent.view(torch.uint8), group=group)
    return received


ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(_ATTENTION, sdpa_mask)
