"""How long a sequence may be, from config.json alone: learned positions end, some rotary ones change on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# These count their positions from behind the padding token's id.
_BEHIND_PADDING = ("roberta", "xlm-roberta", "camembert")
# Families whose position table has an end, the key that says where, and its default.
_TABLES = {
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("n_positions", 1024)),
    **dict.fromkeys(("gptj", "codegen"), ("n_positions", 2048)),
    "openai-gpt": ("n_positions", 512),
    **dict.fromkeys(("gpt_neo", "opt"), ("max_position_embeddings", 2048)),
    "biogpt": ("max_position_embeddings", 1024),
    **dict.fromkeys(
        ("bert", "electra", "rembert", "megatron-bert", *_BEHIND_PADDING), ("max_position_embeddings", 512)
    ),
    "mpt": ("max_seq_len", 2048),
    # Of an encoder-decoder both sides have a table of that size.
    **dict.fromkeys(("bart", "marian", "pegasus"), ("max_position_embeddings", 1024)),
    "blenderbot": ("max_position_embeddings", 128),
    "blenderbot-small": ("max_position_embeddings", 512),
}


def position_limit(config: Mapping[str, Any]) -> int | None:
    """The longest sequence, in tokens, that the model has positions for; None where they go on (rotary, ALiBi)."""
    family = str(config.get("model_type"))
    if family not in _TABLES:
        return None
    key, default = _TABLES[family]
    size = config.get(key)
    before = int(config.get("pad_token_id", 1)) + 1 if family in _BEHIND_PADDING else 0
    return int(default if size is None else size) - before


def changing_rope(config: Mapping[str, Any], longest: int) -> tuple[str, int] | None:
    """The kind of rope whose frequencies depend on the length of the sequence, and the length up to which they are the
    original ones, where sequences of ``longest`` tokens go beyond it; else None.

    LongRoPE (Ding et al. 2024) takes other factors there, dynamic NTK another base for every length.
    """
    for rope in _ropes(config):
        kind = str(rope.get("rope_type") or rope.get("type") or "")
        original = config.get("max_position_embeddings")
        if kind in ("longrope", "su"):
            original = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        elif kind != "dynamic":
            continue
        if original and longest > int(original):
            return kind, int(original)
    return None


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The settings of every rope of the model: one, or one for each type of layer."""
    for key in ("rope_parameters", "rope_scaling"):
        found = config.get(key)
        if isinstance(found, Mapping):
            nested = [value for value in found.values() if isinstance(value, Mapping)]
            yield from nested or [found]
