"""Sizes of public models by their hub names: what a plan on paper needs when nothing has been fetched.

The numbers of their published config.json files. A folder on this machine, or one in the hub cache, goes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip
_LLAMA_70B = _LLAMA_8B | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
}  # fmt: skip
_LLAMA_405B = _LLAMA_8B | {
    "hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128,
}  # fmt: skip
_LLAMA_1B = _LLAMA_8B | {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
    "tie_word_embeddings": True,
}  # fmt: skip
_LLAMA_3B = _LLAMA_8B | {
    "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
    "head_dim": 128, "tie_word_embeddings": True,
}  # fmt: skip
_MISTRAL_7B = _LLAMA_8B | {"model_type": "mistral", "vocab_size": 32000}
_QWEN_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
_FLAN_T5_BASE = {
    "model_type": "t5", "d_model": 768, "d_ff": 2048, "d_kv": 64, "num_heads": 12, "num_layers": 12,
    "num_decoder_layers": 12, "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip

_CONFIGS: dict[str, Mapping[str, Any]] = {
    "meta-llama/Meta-Llama-3-8B": _LLAMA_8B,
    "meta-llama/Meta-Llama-3-70B": _LLAMA_70B,
    "meta-llama/Llama-3.1-8B": _LLAMA_8B,
    "meta-llama/Llama-3.1-70B": _LLAMA_70B,
    "meta-llama/Llama-3.1-405B": _LLAMA_405B,
    "meta-llama/Llama-3.2-1B": _LLAMA_1B,
    "meta-llama/Llama-3.2-3B": _LLAMA_3B,
    "meta-llama/Llama-3.3-70B": _LLAMA_70B,
    "mistralai/Mistral-7B-v0.1": _MISTRAL_7B,
    "Qwen/Qwen2.5-7B": _QWEN_7B,
    "Skywork/Skywork-Reward-Llama-3.1-8B": _LLAMA_8B,
    "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2": _LLAMA_8B,
    "google/flan-t5-base": _FLAN_T5_BASE,
}


def known_config(name: str) -> Mapping[str, Any] | None:
    """The config of a public model (``-Instruct`` has its base's); None for one that is not listed."""
    return _CONFIGS.get(name) or _CONFIGS.get(name.removesuffix("-Instruct"))
