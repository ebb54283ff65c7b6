"""Which tokens end a response."""

from __future__ import annotations

from typing import Any


def stop_tokens(tokenizer: Any, module: Any) -> tuple[int, ...]:
    """The tokenizer's end of sequence and those that the model's own generation settings name, in order.

    ``module`` is a Hugging Face model or what wraps one. Chat models end a turn with a token of theirs.
    """
    found = {tokenizer.eos_token_id}
    settings = getattr(module, "generation_config", None) or getattr(module.model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    found |= set(named) if isinstance(named, (list, tuple)) else {named}
    return tuple(sorted(int(token) for token in found if token is not None))
