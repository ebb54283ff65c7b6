"""Tiny encoder-decoders of the families that distft trains, with heads that are the embedding or their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM

from tests.unit.models import tiny

_T5: dict[str, Any] = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_layers": 2, "num_decoder_layers": 2}
_BART: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
}  # fmt: skip
GATED = {"feed_forward_proj": "gated-gelu"}
# Model type, whether the head is its own, and what else its config says.
ENCODER_DECODERS: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "t5": ("t5", False, {}),
    "flan-t5": ("t5", True, GATED | {"tie_word_embeddings": False}),
    "mt5": ("mt5", True, GATED),
    "umt5": ("umt5", False, GATED),
    "longt5": ("longt5", False, {}),
    "bart": ("bart", False, {}),
    "bart-untied": ("bart", True, {"tie_word_embeddings": False}),
    "pegasus": ("pegasus", False, {}),
    "marian": ("marian", False, {}),
    "blenderbot": ("blenderbot", False, {}),
    "blenderbot-small": ("blenderbot-small", False, {}),
}


def write_encoder_decoder(folder: Path, name: str, **more: Any) -> str:
    """The model in ``folder``, float32 and without dropout, with a tokenizer; its weights have opinions."""
    kind, own_head, said = ENCODER_DECODERS[name]
    t5 = "t5" in kind
    special = {"pad_token_id": tiny.PAD, "bos_token_id": tiny.BOS, "eos_token_id": tiny.EOS}
    start = {"decoder_start_token_id": tiny.PAD if t5 else tiny.EOS}
    still = {"dropout_rate": 0.0} if t5 else {"dropout": 0.0}
    config = CONFIG_MAPPING[kind](
        **{**(_T5 if t5 else _BART), "vocab_size": tiny.VOCABULARY, **special, **start, **still, **said, **more}
    )
    torch.manual_seed(3)
    model = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    if own_head and t5:  # which transformers makes tied, whatever it is told
        model.lm_head.weight = nn.Parameter(torch.randn(model.lm_head.weight.shape) * 0.3)
        model.all_tied_weights_keys.pop("lm_head.weight")
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def has_own_head(model: Any) -> bool:
    """Whether its head is not its embedding."""
    return model.get_output_embeddings().weight is not model.get_input_embeddings().weight
