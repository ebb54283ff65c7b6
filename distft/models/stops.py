"""Which tokens end a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distft.data.turn_end import turn_end
from distft.data.vocabulary import require_token


def stop_tokens(tokenizer: Any, module: Any, named: Sequence[str] | None = None) -> tuple[int, ...]:
    """Those that the recipe names. Without any: the tokenizer's end of sequence, those of the model's own generation
    settings, and the one with which the chat template ends a turn. A base model's settings do not know that one: tuned
    on conversations it would write it, and go on. In order, and only what the model can say.

    ``module`` is a Hugging Face model or what wraps one. Raises UserError for a name that is no token.
    """
    model = module if hasattr(module, "generation_config") else module.model
    found: set[int | None]
    if named is not None:
        vocabulary = tokenizer.get_vocab()
        found = {require_token(name, vocabulary) for name in named}
    else:
        settings = model.generation_config.eos_token_id
        end = turn_end(tokenizer)
        found = {tokenizer.eos_token_id, None if end is None else end.stop}
        found |= set(settings) if isinstance(settings, (list, tuple)) else {settings}
    rows = model.config.get_text_config().vocab_size
    return tuple(sorted(int(token) for token in found if token is not None and token < rows))
