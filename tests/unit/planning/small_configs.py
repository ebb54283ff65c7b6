"""Small models of many families, as their config.json says them, and what transformers builds of each."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
}
NEOX = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
GPT2: dict[str, Any] = {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 320, "n_positions": 100}
OPT: dict[str, Any] = {
    "hidden_size": 64, "ffn_dim": 176, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 320,
    "max_position_embeddings": 50, "word_embed_proj_dim": 64,
}  # fmt: skip
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 176, "num_layers": 3, "num_heads": 4, "vocab_size": 320}
FLAN_T5_BASE = {
    "model_type": "t5", "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12,
    "vocab_size": 32128, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("LlamaConfig", "AutoModelForCausalLM", SMALL),
    ("LlamaConfig", "AutoModelForCausalLM", SMALL | {"tie_word_embeddings": True}),
    ("LlamaConfig", "AutoModelForCausalLM", SMALL | {"attention_bias": True, "mlp_bias": True, "head_dim": 8}),
    ("MistralConfig", "AutoModelForCausalLM", SMALL),
    ("Qwen2Config", "AutoModelForCausalLM", SMALL),
    ("Qwen3Config", "AutoModelForCausalLM", SMALL | {"head_dim": 32}),
    ("GemmaConfig", "AutoModelForCausalLM", SMALL | {"head_dim": 32}),
    ("Gemma2Config", "AutoModelForCausalLM", SMALL | {"head_dim": 32}),
    ("Gemma3TextConfig", "AutoModelForCausalLM", SMALL | {"head_dim": 32}),
    ("SmolLM3Config", "AutoModelForCausalLM", SMALL | {"pad_token_id": 0}),
    ("Phi3Config", "AutoModelForCausalLM", SMALL | {"pad_token_id": 0}),
    ("MixtralConfig", "AutoModelForCausalLM", SMALL | {"num_local_experts": 4}),
    ("Qwen3MoeConfig", "AutoModelForCausalLM",
     SMALL | {"num_experts": 4, "moe_intermediate_size": 48, "head_dim": 16}),
    ("GPT2Config", "AutoModelForCausalLM", GPT2),
    ("GPTNeoXConfig", "AutoModelForCausalLM", NEOX),
    ("OPTConfig", "AutoModelForCausalLM", OPT),
    ("OPTConfig", "AutoModelForCausalLM", OPT | {"word_embed_proj_dim": 32}),
    ("T5Config", "AutoModelForSeq2SeqLM", T5),
    ("T5Config", "AutoModelForSeq2SeqLM", T5 | {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 2}),
    ("MT5Config", "AutoModelForSeq2SeqLM", T5),
    ("BertConfig", "AutoModelForSequenceClassification", NEOX),
    ("BertConfig", "AutoModelForMaskedLM", NEOX),
    ("T5Config", "AutoModelForSequenceClassification", T5),
    ("MT5Config", "AutoModelForSequenceClassification", T5),
    ("LlamaConfig", "AutoModelForSequenceClassification", SMALL),
    ("Qwen2Config", "AutoModelForSequenceClassification", SMALL),
]  # fmt: skip
