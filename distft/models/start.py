"""A model from nothing: `init:` sizes to a folder with config, weights and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from distft.config.models import Init
from distft.models.load import quiet_transformers
from distft.models.tying import untied


def create_model(init: Init, tokenizer: Any, folder: Path, *, seed: int, weights: bool = True) -> None:
    """Writes a model of the given architecture and sizes, float32, without dropout, weights drawn from ``seed``; the
    tokenizer beside it.

    Without ``weights`` its config and tokenizer only.
    """
    kind, config = _MAKERS[init.architecture](init, tokenizer)
    if weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = kind(config)
            if init.architecture == "t5" and not init.tie_embeddings:
                # As large as the embedding that T5 scales where it is the head; transformers makes the logits of all
                # tokens as far apart as d_model says.
                torch.nn.init.normal_(model.lm_head.weight, std=init.hidden_size**-0.5)
        with quiet_transformers():
            model.save_pretrained(folder)
    else:
        config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _llama(init: Init, tokenizer: Any) -> tuple[Any, Any]:
    return LlamaForCausalLM, LlamaConfig(
        hidden_size=init.hidden_size,
        intermediate_size=init.feed_forward_size,
        num_hidden_layers=init.num_layers,
        num_attention_heads=init.num_heads,
        num_key_value_heads=init.key_value_heads,
        max_position_embeddings=init.max_positions,
        bos_token_id=tokenizer.bos_token_id,
        **_common(init, tokenizer),
    )


def _t5(init: Init, tokenizer: Any) -> tuple[Any, Any]:
    own_head = not init.tie_embeddings
    return untied(T5ForConditionalGeneration) if own_head else T5ForConditionalGeneration, T5Config(
        d_model=init.hidden_size,
        d_kv=init.hidden_size // init.num_heads,
        d_ff=init.feed_forward_size,
        num_layers=init.num_layers,
        num_heads=init.num_heads,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        **_common(init, tokenizer) | {"decoder_start_token_id": tokenizer.pad_token_id},
    )


def _bert(init: Init, tokenizer: Any) -> tuple[Any, Any]:
    return BertForMaskedLM, BertConfig(
        hidden_size=init.hidden_size,
        intermediate_size=init.feed_forward_size,
        num_hidden_layers=init.num_layers,
        num_attention_heads=init.num_heads,
        max_position_embeddings=init.max_positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **_common(init, tokenizer),
    )


def _common(init: Init, tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": init.vocab_size,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": init.tie_embeddings,
    }


_MAKERS = {"llama": _llama, "t5": _t5, "bert": _bert}
