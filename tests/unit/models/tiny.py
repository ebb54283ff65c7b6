"""Models of a few thousand weights, and a tokenizer of as many words as they know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distft.config.models import Policy
from distft.models.tokenizer import load_tokenizer
from distft.models.vocabulary_extension import add_tokens, fetched, write_extended

VOCABULARY = 96
PAD, BOS, EOS = 0, 1, 2
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": SIZES | {"attention_dropout": 0.1},
    "qwen2": SIZES,
    "gemma2": SIZES | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4, "final_logit_softcapping": 1.0},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
}
HEAD_WITH_BIAS: dict[str, dict[str, Any]] = {"phi": SIZES | {"num_key_value_heads": 2}}


def write_model(folder: Path, architecture: str = "llama", *, tied: bool = True, seed: int = 0, **more: Any) -> str:
    """A causal language model in ``folder``, float32, with weights large enough to have opinions."""
    config = CONFIG_MAPPING[architecture](
        **(ARCHITECTURES | HEAD_WITH_BIAS)[architecture],
        vocab_size=VOCABULARY,
        tie_word_embeddings=tied,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        **more,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(8.0)
    model.save_pretrained(folder)
    return str(folder)


def extend_model(source: Path | str, target: Path, *, weights: bool = True) -> list[int]:
    """The model and tokenizer of ``source`` with three new tokens, in ``target``; their numbers."""
    folder = fetched(str(source), weights=weights)
    its = load_tokenizer(str(folder))
    numbers = add_tokens(its, ["cat", "dog", "a bird"], "extend_vocabulary")
    write_extended(folder, its, numbers, target, Policy(path=str(source), dtype="float32"), weights=weights)
    return numbers


def tokenizer(size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Words ``w3`` to ``w95``, or to a smaller ``size``, and the special tokens that the models name."""
    words = {"<pad>": PAD, "<s>": BOS, "</s>": EOS} | {f"w{number}": number for number in range(3, size)}
    backend = Tokenizer(WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def rows(lengths: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    """Random token rows of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]


def write_llama(folder: Path, hidden_size: int, intermediate_size: int, num_attention_heads: int) -> str:
    """A Llama of four layers with an untied head, for what is measured in bytes, and its tokenizer."""
    config = LlamaConfig(
        hidden_size=hidden_size, intermediate_size=intermediate_size, num_hidden_layers=4,
        num_attention_heads=num_attention_heads, vocab_size=VOCABULARY, max_position_embeddings=64,
        tie_word_embeddings=False, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)
