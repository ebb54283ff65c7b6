"""Tiny models of the families that distft trains: whatever differs between them in rope, experts, heads and norms."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.unit.models import tiny

POSITIONS = 64
_SIZES = tiny.SIZES | {"max_position_embeddings": POSITIONS}
_OLD = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
_OLDER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": POSITIONS}
_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
_FINE_EXPERTS = {"num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 8}
_WINDOW = {"sliding_window": 8}
_BOTH = {"layer_types": ["sliding_attention", "full_attention"]}


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return _SIZES | {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _SIZES),
    "llama_linear": ("llama", _rope("linear", factor=2.0)),
    "llama_llama3": (
        "llama",
        _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
    ),
    "llama_yarn": ("llama", _rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "llama_dynamic": ("llama", _rope("dynamic", factor=2.0) | {"max_position_embeddings": 16}),
    "mistral": ("mistral", _SIZES | _WINDOW),
    "mixtral": ("mixtral", _SIZES | _EXPERTS),
    "qwen2": ("qwen2", _SIZES | {"tie_word_embeddings": True}),
    "qwen2_window": ("qwen2", _SIZES | _WINDOW | {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen2_moe": ("qwen2_moe", _SIZES | _FINE_EXPERTS | {"shared_expert_intermediate_size": 8}),
    "qwen3": ("qwen3", _SIZES | {"head_dim": 8}),
    "qwen3_moe": ("qwen3_moe", _SIZES | _FINE_EXPERTS | {"head_dim": 8}),
    "qwen3_5": (
        "qwen3_5_text",
        _SIZES
        | {"head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}
        | {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
        | {"linear_key_head_dim": 8, "linear_value_head_dim": 8},
    ),
    "gemma": ("gemma", _SIZES | {"head_dim": 8}),
    "gemma2": ("gemma2", _SIZES | _WINDOW | {"head_dim": 8, "query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", _SIZES | _WINDOW | _BOTH | {"head_dim": 8, "query_pre_attn_scalar": 8}),
    "gpt2": ("gpt2", _OLD),
    "gpt_neo": (
        "gpt_neo",
        {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_position_embeddings": POSITIONS}
        | {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    ),
    "gptj": ("gptj", _OLD | {"rotary_dim": 4}),
    "gpt_neox": ("gpt_neox", _OLDER | {"intermediate_size": 32}),
    "gpt_bigcode": ("gpt_bigcode", _OLD),
    "opt": ("opt", _OLDER | {"ffn_dim": 32, "word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "falcon": ("falcon", _OLDER | {"new_decoder_architecture": False, "multi_query": True, "alibi": False}),
    "falcon_alibi": ("falcon", _OLDER | {"new_decoder_architecture": False, "multi_query": True, "alibi": True}),
    "bloom": ("bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "mpt": ("mpt", {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": POSITIONS}),
    "phi": ("phi", _SIZES | {"num_key_value_heads": 2}),
    "phi3_longrope": (
        "phi3",
        _SIZES
        | {"num_key_value_heads": 2, "original_max_position_embeddings": 16}
        | {"rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0}
           | {"long_factor": [2.0] * 4, "short_factor": [1.0] * 4, "original_max_position_embeddings": 16}},
    ),
    "stablelm": ("stablelm", _SIZES),
    "olmo2": ("olmo2", _SIZES),
    "granite": ("granite", _SIZES | {"logits_scaling": 8.0, "embedding_multiplier": 12.0}),
    "cohere": ("cohere", _SIZES),
    "starcoder2": ("starcoder2", _SIZES | _WINDOW),
    "smollm3": ("smollm3", _SIZES),
    "glm4": ("glm4", _SIZES | {"head_dim": 8}),
    "gpt_oss": ("gpt_oss", _SIZES | _WINDOW | _BOTH | _EXPERTS | {"head_dim": 8}),
    "deepseek_v3": (
        "deepseek_v3",
        _SIZES
        | {"num_key_value_heads": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
        | {"moe_intermediate_size": 8, "n_shared_experts": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8}
        | {"q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8},
    ),
    "mamba": ("mamba", {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
    "mamba2": (
        "mamba2",
        {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1},
    ),
    "bert": ("bert", _OLDER | {"intermediate_size": 32, "is_decoder": True}),
}  # fmt: skip
# In the default run: experts stacked in three ways, a renamed head, learned positions.
SHOWN = ("mixtral", "deepseek_v3", "gpt_neox", "gpt2")


def families(*shown: str, of: Iterable[str] = FAMILIES) -> list[Any]:
    """All families (``of`` these), those that are not ``shown`` (by default ``SHOWN``) in the slow run only."""
    return [name if name in (shown or SHOWN) else pytest.param(name, marks=pytest.mark.slow) for name in of]


def write_family(folder: Path, name: str, **more: Any) -> str:
    """A causal language model of the family in ``folder``, float32, with a tokenizer; its weights have opinions."""
    kind, sizes = FAMILIES[name]
    special = {"pad_token_id": tiny.PAD, "bos_token_id": tiny.BOS, "eos_token_id": tiny.EOS}
    config = CONFIG_MAPPING[kind](**{**sizes, "vocab_size": tiny.VOCABULARY, **special, **more})
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
        for buffer_name, buffer in model.named_buffers():
            if "correction_bias" in buffer_name:  # balances a router; trained by other means, and kept in files
                buffer.add_(torch.randn(buffer.shape))
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


_SILENT = """
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaForCausalLM

class Silent(LlamaAttention):
    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, past_key_values=None,
                position_ids=None, **others):
        return super().forward(hidden_states, position_embeddings, attention_mask, past_key_values, **others)

class SilentLlama(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.self_attn.__class__ = Silent
"""


def write_own_code(folder: Path) -> str:
    """A Llama that, where its code is trusted, does not hand positions on to what computes its attention."""
    written = write_family(folder, "llama_dynamic", auto_map={"AutoModelForCausalLM": "modeling_silent.SilentLlama"})
    (folder / "modeling_silent.py").write_text(_SILENT)
    return written
