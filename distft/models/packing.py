"""Samples that share a row: how attention keeps them apart, and which models do.

transformers is given ``position_ids`` that begin anew with every sample, and no mask. For flash attention it makes the
samples' bounds of them; here sdpa does likewise, and looks at one sample after the other. Eager attention has a mask of
the whole row, causal within each sample and empty between two. Not every architecture hands its positions on to its
attention, and some have states that run through the whole row.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from distft.common.errors import UserError
from distft.models.families.table import CAUSAL, PACKABLE, SCALAR, TEXT_EMBEDDING, FamilyName, has_own_code

_ACROSS: Final = "its attention would see the samples before it in a packed row"
_STATES: Final = "its state would run from one sample of a packed row into the next"
_UNTOLD: Final = "its attention is not told where the samples of a packed row end"
_ATTENTION: Final = "distft_packed"
REASONS: Final = {
    **dict.fromkeys(("bert", "bloom", "falcon", "gpt_oss", "mpt", "opt"), _ACROSS),
    **dict.fromkeys(("gpt_bigcode", "gpt_neo", "gptj"), _UNTOLD),
    **dict.fromkeys(("mamba", "mamba2", "qwen3_5_text"), _STATES),
}


def require_packable(config: Any, family: FamilyName, where: str, *, trusted: bool) -> None:
    """Raises UserError where a model of that config cannot read several samples in one row; ``where``: the role;
    ``trusted``: code that comes with the model is run."""
    kind = str(config.model_type)
    hint = f"{where}.engine.packed=false, or a model of type {', '.join(PACKABLE)}"
    if family not in (CAUSAL.name, SCALAR.name):
        how = "is pooled from whole rows" if family == TEXT_EMBEDDING.name else "has an encoder, which sees whole rows"
        why = f"{kind} {how}"
    elif kind in PACKABLE:
        if not trusted or not has_own_code(getattr(config, "auto_map", None)):
            return
        why = f"{kind} with code of its own, whose samples in one row have not been compared with a row for each"
        hint = f"{where}.engine.packed=false, or {where}.trust_remote_code=false for transformers' {kind}"
    else:
        why = f"{kind}: {REASONS.get(kind, 'samples in one row have not been compared with a row for each')}"
    raise UserError(why, where=f"{where}.engine.packed", hint=hint)


def keep_apart(model: Any) -> None:
    """Has a model's sdpa look at the samples of a packed row one by one; rows of one sample are sdpa's as ever."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(_ATTENTION)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    position_ids: Tensor | None = None, sliding_window: int | None = None, **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """``[rows, heads, length, width]`` to ``[rows, length, heads, width]``. Raises UserError where a packed row comes
    without its positions."""
    packed = attention_mask is not None and attention_mask.numel() == 0
    masked = attention_mask is not None and not packed
    lengths = [] if masked or query.shape[2] != key.shape[2] else _lengths(position_ids)
    if packed and len(lengths) < 2:
        raise UserError(_UNTOLD, where=type(module).__name__, hint="engine.packed=false for the role of that model")
    if len(lengths) < 2:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, position_ids=position_ids, sliding_window=sliding_window,
            **others,
        )  # fmt: skip
    queries, keys, values = (torch.split(each, lengths, dim=2) for each in (query, key, value))
    seen = [
        sdpa_attention_forward(module, *states, _window(states[0].shape[2], sliding_window, query.device), **others)[0]
        for states in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(seen, dim=1), None


def _lengths(position_ids: Tensor | None) -> list[int]:
    """Tokens of each sample of a row, whose positions begin at 0; nothing of several rows."""
    if position_ids is None or len(position_ids) > 1:
        return []
    starts = (position_ids[0] == 0).nonzero().flatten().tolist()
    return [stop - start for start, stop in zip(starts, [*starts[1:], position_ids.shape[1]], strict=True)]


def _window(length: int, size: int | None, device: torch.device) -> Tensor | None:
    """What each token of a sample sees through a window of that size; None where it sees all before it."""
    if size is None or length <= size:
        return None
    places = torch.arange(length, device=device)
    before = places[:, None] - places
    return ((before >= 0) & (before < size))[None, None]


def _mask(
    batch_size: int, q_length: int, kv_length: int, *, attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True, device: torch.device | str = "cpu", **others: Any,
) -> Tensor | None:  # fmt: skip
    """One without elements tells attention of a packed row: nothing is padded there, and still transformers takes
    plain causal attention not to do."""
    if batch_size == 1 and q_length == kv_length and attention_mask is None and not allow_is_causal_skip:
        return torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device)
    return sdpa_mask(
        batch_size, q_length, kv_length, attention_mask=attention_mask, allow_is_causal_skip=allow_is_causal_skip,
        device=device, **others,
    )  # fmt: skip


ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(_ATTENTION, _mask)
