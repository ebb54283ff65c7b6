"""The padding token, and why it matters to a reward model: transformers reads it at the last token that is not padding.

Where padding is EOS, or what a chat template writes last, that is not the last token of the text. TRL trains and
publishes such models; so they are read here, trained and exported as transformers reads them.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def padding(tokenizer: Any, config: Any) -> int | None:
    """The tokenizer's padding token, if it has one that the embedding knows."""
    pad: int | None = tokenizer.pad_token_id
    return pad if pad is not None and pad < config.get_text_config().vocab_size else None


def unread_token(tokenizer: Any, config: Any, *, trained: bool) -> int | None:
    """The token at which no reward is read; None: every sequence is read at its last token.

    A finished reward model says so itself. One that is trained will be exported with the tokenizer's padding.
    """
    if trained:
        return padding(tokenizer, config)
    said: int | None = config.get_text_config().pad_token_id
    return said


def train_padding_too(model: Any) -> None:
    """Lets the embedding of the padding token learn: torch would hold it back, also where it is EOS within a text.

    Real padding is never read, so that its gradient is zero anyway.
    """
    embedding = model.get_input_embeddings()
    if isinstance(embedding, nn.Embedding):
        embedding.padding_idx = None
