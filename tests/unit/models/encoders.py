"""Tiny encoders with the tokenizers of their kind: BERT's and DeBERTa's [CLS] and [SEP], RoBERTa's <s> and </s>."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    CONFIG_MAPPING,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

POSITIONS, VOCABULARY = 64, 96
_SIZES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": POSITIONS, "vocab_size": VOCABULARY,
}  # fmt: skip
_BERTS = {"pad_token_id": 0, "type_vocab_size": 2}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": _SIZES | _BERTS,
    "roberta": _SIZES | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1},
    "modernbert": _SIZES
    | {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    | {"global_attn_every_n_layers": 2, "local_attention": 8, "classifier_pooling": "mean"},
    "deberta-v2": _SIZES
    | _BERTS
    | {"type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    | {"position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm", "pooler_hidden_size": 16},
}


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Words ``w5`` to ``w95`` between the special tokens of the kind."""
    roberta = kind == "roberta"
    first, last = ("<s>", "</s>") if roberta else ("[CLS]", "[SEP]")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if roberta else ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    words = {word: number for number, word in enumerate(special)} | {f"w{n}": n for n in range(5, VOCABULARY)}
    backend = Tokenizer(WordLevel(words, unk_token=special[3]))
    backend.pre_tokenizer = WhitespaceSplit()
    pair = f"{first} $A {last} {last} $B {last}" if roberta else f"{first} $A {last} $B:1 {last}:1"
    marks = [(token, words[token]) for token in (first, last)]
    backend.post_processor = TemplateProcessing(single=f"{first} $A {last}", pair=pair, special_tokens=marks)
    names = {"pad_token": special[1 if roberta else 0], "unk_token": special[3], "mask_token": special[4]}
    ends = {"bos_token": first, "eos_token": last} if roberta else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token=first,
        sep_token=last,
        model_max_length=POSITIONS,
        **names,
        **ends,
        model_input_names=["input_ids", *([] if roberta else ["token_type_ids"]), "attention_mask"],
    )


def write_encoder(folder: Path, kind: str, *, num_labels: int | None = None, **more: Any) -> str:
    """An encoder in ``folder``, float32, weights with opinions: with a head of so many outputs, or one for masks."""
    config = CONFIG_MAPPING[kind](**{**ENCODERS[kind], **more})
    head: Any = AutoModelForMaskedLM if num_labels is None else AutoModelForSequenceClassification
    if num_labels is not None:
        config.num_labels = num_labels
    torch.manual_seed(3)
    model = head.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    model.save_pretrained(folder)
    tokenizer(kind).save_pretrained(folder)
    return str(folder)


def words(*numbers: int) -> str:
    """A text of these words."""
    return " ".join(f"w{number}" for number in numbers)
