"""Which tokens end a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distft.common.errors import UserError, nearest
from distft.data.turn_end import turn_end


def stop_tokens(tokenizer: Any, module: Any, named: Sequence[str] | None = None) -> tuple[int, ...]:
    """Those that the recipe names. Without any: the tokenizer's end of sequence, those of the model's own generation
    settings, and the one with which the chat template ends a turn. A base model's settings do not know that one: tuned
    on conversations it would write it, and go on. In order.

    ``module`` is a Hugging Face model or what wraps one. Raises UserError for a name that is no token.
    """
    if named is not None:
        return tuple(sorted({_number(tokenizer, name) for name in named}))
    found = {tokenizer.eos_token_id}
    settings = getattr(module, "generation_config", None) or getattr(module.model, "generation_config", None)
    generation = getattr(settings, "eos_token_id", None)
    found |= set(generation) if isinstance(generation, (list, tuple)) else {generation}
    end = turn_end(tokenizer)
    found.add(None if end is None else end.stop)
    return tuple(sorted(int(token) for token in found if token is not None))


def _number(tokenizer: Any, name: str) -> int:
    vocabulary = tokenizer.get_vocab()
    if name not in vocabulary:
        close = nearest(name, vocabulary)
        hint = f"did you mean {close}?" if close else "name single tokens of the policy's tokenizer, such as <|im_end|>"
        raise UserError(f"{name!r} is no token of the policy's tokenizer", where="models.policy.stop_tokens", hint=hint)
    return int(vocabulary[name])
