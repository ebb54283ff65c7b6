"""Llamas and T5s of any size with a byte-level BPE tokenizer trained on the spot, saved as Hugging Face folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
)

SPECIALS = ["<pad>", "<eos>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most ``vocab_size`` tokens; <pad> is 0, <eos> 1; adds nothing to a text by itself."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=vocab_size, min_frequency=2, special_tokens=SPECIALS, show_progress=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_llama(
    folder: str | Path, tokenizer: PreTrainedTokenizerFast, *, scalar_head: bool = False, seed: int = 0,
    hidden_size: int = 32, intermediate_size: int = 64, num_layers: int = 2, num_heads: int = 2, vocab_size: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:  # fmt: skip
    """A freshly initialised Llama (tied embeddings, or a scalar head) and the tokenizer; returns the folder."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size or len(tokenizer), hidden_size=hidden_size, intermediate_size=intermediate_size,
        num_hidden_layers=num_layers, num_attention_heads=num_heads, num_key_value_heads=num_heads,
        max_position_embeddings=2048, tie_word_embeddings=not scalar_head,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    config.num_labels = 1 if scalar_head else 2
    model = (LlamaForSequenceClassification if scalar_head else LlamaForCausalLM)(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def save_t5(
    folder: str | Path, tokenizer: PreTrainedTokenizerFast, *, scalar_head: bool = False, seed: int = 0,
    hidden_size: int = 32, num_layers: int = 2, num_heads: int = 2,
) -> Path:  # fmt: skip
    """A freshly initialised T5, as flan-T5 is built, with a head of its own (or a scalar one), and the tokenizer."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=hidden_size, d_kv=hidden_size // num_heads, d_ff=2 * hidden_size,
        num_layers=num_layers, num_heads=num_heads, feed_forward_proj="gated-gelu", dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id, num_labels=1, tie_word_embeddings=False,
    )  # fmt: skip
    model: Any = (T5ForSequenceClassification if scalar_head else T5ForConditionalGeneration)(config)
    if not scalar_head:
        _untie(model, torch.randn(config.vocab_size, hidden_size) / 4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def read_t5(folder: str | Path) -> Any:
    """What ``save_t5`` wrote; transformers finds a head unlike the embedding, and leaves it alone."""
    model: Any = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    assert model.lm_head.weight is not model.shared.weight
    return model


def _untie(model: Any, head: torch.Tensor) -> None:
    """transformers makes every T5 a tied one, whatever it is told."""
    model.lm_head.weight = nn.Parameter(head)
    model.all_tied_weights_keys.pop("lm_head.weight")
