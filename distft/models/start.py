"""A model from nothing: `init:` sizes to a folder with config, weights and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distft.config.models import Init
from distft.models.load import quiet_transformers


def create_model(init: Init, tokenizer: Any, folder: Path, *, seed: int, weights: bool = True) -> None:
    """Writes a Llama of the given sizes, float32, weights drawn from ``seed``; the tokenizer beside it.

    Without ``weights`` its config and tokenizer only.
    """
    config = LlamaConfig(
        hidden_size=init.hidden_size,
        intermediate_size=init.feed_forward_size,
        num_hidden_layers=init.num_layers,
        num_attention_heads=init.num_heads,
        num_key_value_heads=init.key_value_heads,
        vocab_size=init.vocab_size,
        max_position_embeddings=init.max_positions,
        tie_word_embeddings=init.tie_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    if weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
        with quiet_transformers():
            model.save_pretrained(folder)
    else:
        config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
