"""Which tensors a Hugging Face architecture has, from its config.json alone (no torch, no weights).

One function per family; each returns the tables of ``Tensors`` that the module really registers, so that
totals are exact and questions about single tensors (which stay whole under ZeRO-3?) can be answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeAlias

Block: TypeAlias = Literal["embedding", "layers", "norm", "head"]
Config: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Tensors:
    """``count`` tensors of one shape, all called alike (``attention.q``) in one block of the model.

    ``linear``: the weights of linear layers, which can have adapters and can be kept in so many ``bits``.
    """

    name: str
    block: Block
    shape: tuple[int, ...]
    count: int = 1
    linear: bool = False
    bits: Literal[4, 8] | None = None
    trained: bool = True

    @property
    def numel(self) -> int:
        """Elements of one of them."""
        return prod(self.shape)

    @property
    def packed(self) -> int:
        """Elements of one of them as it is kept: in four bits bytes of two weights each."""
        return (self.numel + 1) // 2 if self.bits == 4 else self.numel

    def stored(self, size: int, ranks: int = 1) -> int:
        """Bytes of all of them on one of ``ranks``, each cut by itself, its last part padded; an element has ``size``
        bytes where it is not quantized.
        """
        return -(-self.packed // ranks) * (size if self.bits is None else 1) * self.count

    @property
    def total(self) -> int:
        """Elements of all of them."""
        return self.numel * self.count


def llama_like(config: Config) -> list[Tensors]:
    """Llama, Mistral, Qwen2, Qwen3, SmolLM3, Gemma, Gemma 2, Gemma 3 (text) and the mixtures of experts built on them.

    RMSNorm before attention and MLP, grouped key-value heads, gated MLP.
    """
    family = str(config["model_type"])
    hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    attention_bias = bool(config.get("attention_bias"))
    tensors = [Tensors("embedding", "embedding", (config["vocab_size"], hidden))]
    widths = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
    for name, width in widths.items():
        tensors += _linear(
            f"attention.{name}", width, hidden, layers, bias=attention_bias or family.startswith("qwen2")
        )
    tensors += _linear("attention.o", hidden, heads * head_dim, layers, bias=attention_bias)
    if family.startswith(("qwen3", "gemma3")):
        tensors.append(Tensors("attention.head_norm", "layers", (head_dim,), 2 * layers))
    tensors += _mixture(config, layers) if _experts(config) else _gated_mlp(config, layers)
    tensors.append(Tensors("norm", "layers", (hidden,), (4 if family in ("gemma2", "gemma3_text") else 2) * layers))
    tensors.append(Tensors("final_norm", "norm", (hidden,)))
    return tensors + _head(config, hidden, tied_by_default=family.startswith("gemma"))


def phi3(config: Config) -> list[Tensors]:
    """Phi-3 and Phi-4: a Llama whose query, key and value are one matrix, and so are gate and up."""
    hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    inner, kv_heads = config["intermediate_size"], config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    tensors = [
        Tensors("embedding", "embedding", (config["vocab_size"], hidden)),
        Tensors("norm", "layers", (hidden,), 2 * layers),
        Tensors("final_norm", "norm", (hidden,)),
    ]
    tensors += _linear("attention.qkv", (heads + 2 * kv_heads) * head_dim, hidden, layers)
    tensors += _linear("attention.o", hidden, heads * head_dim, layers)
    tensors += _linear("mlp.gate_up", 2 * inner, hidden, layers)
    tensors += _linear("mlp.down", hidden, inner, layers)
    return tensors + _head(config, hidden, tied_by_default=False)


def gpt2(config: Config) -> list[Tensors]:
    """GPT-2: learned positions, LayerNorm with bias, fused query-key-value, tied head."""
    hidden, layers = config["n_embd"], config["n_layer"]
    inner = config.get("n_inner") or 4 * hidden
    tensors = [
        Tensors("embedding", "embedding", (config["vocab_size"], hidden)),
        Tensors("positions", "embedding", (config["n_positions"], hidden)),
        Tensors("norm", "layers", (hidden,), 4 * layers),
        Tensors("final_norm", "norm", (hidden,), 2),
    ]
    return tensors + _fused_layers(hidden, inner, layers) + _head(config, hidden, tied_by_default=True)


def gpt_neox(config: Config) -> list[Tensors]:
    """GPT-NeoX and Pythia: rotary positions, LayerNorm with bias, fused query-key-value, untied head."""
    hidden, layers, inner = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    attention_bias = bool(config.get("attention_bias", True))
    tensors = [
        Tensors("embedding", "embedding", (config["vocab_size"], hidden)),
        Tensors("norm", "layers", (hidden,), 4 * layers),
        Tensors("final_norm", "norm", (hidden,), 2),
    ]
    tensors += _fused_layers(hidden, inner, layers, attention_bias=attention_bias)
    return tensors + _head(config, hidden, tied_by_default=False)


def opt(config: Config) -> list[Tensors]:
    """OPT: learned positions (two more than said), biases everywhere, tied head, optional projections."""
    hidden, layers, inner = config["hidden_size"], config["num_hidden_layers"], config["ffn_dim"]
    width = config.get("word_embed_proj_dim") or hidden
    tensors = [
        Tensors("embedding", "embedding", (config["vocab_size"], width)),
        Tensors("positions", "embedding", (config["max_position_embeddings"] + 2, hidden)),
        Tensors("norm", "layers", (hidden,), 4 * layers),
    ]
    if width != hidden:
        tensors.append(Tensors("projection", "embedding", (hidden, width), 2, linear=True))
    if config.get("do_layer_norm_before", True) and not config.get("_remove_final_layer_norm"):
        tensors.append(Tensors("final_norm", "norm", (hidden,), 2))
    for name in ("q", "k", "v", "o"):
        tensors += _linear(f"attention.{name}", hidden, hidden, layers, bias=True)
    return tensors + _mlp(hidden, inner, layers) + _head(config, width, tied_by_default=True)


def t5(config: Config) -> list[Tensors]:
    """T5, flan-T5, mT5: encoder and decoder without biases; relative positions in the first layer of each."""
    hidden, inner, heads = config["d_model"], config["d_ff"], config["num_heads"]
    encoder = config["num_layers"]
    decoder = config.get("num_decoder_layers") or encoder
    width, buckets = heads * config["d_kv"], config.get("relative_attention_num_buckets", 32)
    gated = str(config.get("feed_forward_proj", "gated-gelu" if config["model_type"] == "mt5" else "relu")).startswith(
        "gated"
    )
    attentions = encoder + 2 * decoder  # a decoder layer attends to itself and to the encoder
    tensors = [
        Tensors("embedding", "embedding", (config["vocab_size"], hidden)),
        Tensors("attention.positions", "layers", (buckets, heads), 2),
        Tensors("norm", "layers", (hidden,), 2 * encoder + 3 * decoder),
        Tensors("final_norm", "norm", (hidden,), 2),
    ]
    for name in ("q", "k", "v"):
        tensors += _linear(f"attention.{name}", width, hidden, attentions)
    tensors += _linear("attention.o", hidden, width, attentions)
    tensors += _linear("mlp.up", inner, hidden, (2 if gated else 1) * (encoder + decoder))
    tensors += _linear("mlp.down", hidden, inner, encoder + decoder)
    return tensors + _head(config, hidden, tied_by_default=config["model_type"] == "t5")


def bert(config: Config) -> list[Tensors]:
    """BERT with its head for masked tokens, the embedding behind a layer of its own: learned positions and kinds of
    text, LayerNorm behind attention and MLP, biases everywhere. No pooler: it is part of a scalar head."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    tensors = [
        Tensors("embedding", "embedding", (config["vocab_size"], hidden)),
        Tensors("positions", "embedding", (config.get("max_position_embeddings", 512), hidden)),
        Tensors("kinds", "embedding", (config.get("type_vocab_size", 2), hidden)),
        Tensors("norm", "layers", (hidden,), 4 * layers),
        Tensors("first_norm", "norm", (hidden,), 2),
    ]
    for name in ("q", "k", "v", "o"):
        tensors += _linear(f"attention.{name}", hidden, hidden, layers, bias=True)
    head = [
        Tensors("head.transform", "head", (hidden, hidden), linear=True),
        Tensors("head.small", "head", (hidden,), 3),
        Tensors("head.bias", "head", (config["vocab_size"],)),
    ]
    return tensors + _mlp(hidden, config["intermediate_size"], layers) + head


FAMILIES: dict[str, Callable[[Config], list[Tensors]]] = {
    **dict.fromkeys(
        (
            "llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3_text", "mixtral", "qwen3_moe",
        ),
        llama_like,
    ),
    "phi3": phi3,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "opt": opt,
    "t5": t5,
    "mt5": t5,
    "bert": bert,
}  # fmt: skip

_LLAMA_MODULES: dict[str, tuple[str, ...]] = {
    "attention.q": ("q_proj",), "attention.k": ("k_proj",), "attention.v": ("v_proj",), "attention.o": ("o_proj",),
    "mlp.gate": ("gate_proj",), "mlp.up": ("up_proj",), "mlp.down": ("down_proj",),
}  # fmt: skip
_T5_MODULES: dict[str, tuple[str, ...]] = {
    "attention.q": ("q",), "attention.k": ("k",), "attention.v": ("v",), "attention.o": ("o",),
    "mlp.up": ("wi", "wi_0", "wi_1"), "mlp.down": ("wo",),
}  # fmt: skip
# What the modules of a family's linear layers are called by its own code, by table.
MODULES: dict[str, dict[str, tuple[str, ...]]] = {
    **{family: _LLAMA_MODULES for family, tables in FAMILIES.items() if tables is llama_like},
    "phi3": {
        "attention.qkv": ("qkv_proj",), "attention.o": ("o_proj",),
        "mlp.gate_up": ("gate_up_proj",), "mlp.down": ("down_proj",),
    },
    "gpt2": {
        "attention.qkv": ("c_attn",), "attention.o": ("c_proj",), "mlp.up": ("c_fc",), "mlp.down": ("c_proj",),
    },
    "gpt_neox": {
        "attention.qkv": ("query_key_value",), "attention.o": ("dense",),
        "mlp.up": ("dense_h_to_4h",), "mlp.down": ("dense_4h_to_h",),
    },
    "opt": {
        "attention.q": ("q_proj",), "attention.k": ("k_proj",), "attention.v": ("v_proj",),
        "attention.o": ("out_proj",), "mlp.up": ("fc1",), "mlp.down": ("fc2",),
        "projection": ("project_in", "project_out"),
    },
    "bert": {
        "attention.q": ("query",), "attention.k": ("key",), "attention.v": ("value",), "attention.o": ("dense",),
        "mlp.up": ("dense",), "mlp.down": ("dense",), "head.transform": ("dense",),
    },
    "t5": _T5_MODULES,
    "mt5": _T5_MODULES,
}  # fmt: skip


def _linear(name: str, rows: int, columns: int, count: int, *, bias: bool = False) -> list[Tensors]:
    weight = Tensors(name, "layers", (rows, columns), count, linear=True)
    return [weight, Tensors(f"{name}.bias", "layers", (rows,), count)] if bias else [weight]


def _fused_layers(hidden: int, inner: int, layers: int, *, attention_bias: bool = True) -> list[Tensors]:
    """Attention with query, key and value in one matrix, and an MLP."""
    return [
        *_linear("attention.qkv", 3 * hidden, hidden, layers, bias=attention_bias),
        *_linear("attention.o", hidden, hidden, layers, bias=attention_bias),
        *_mlp(hidden, inner, layers),
    ]


def _mlp(hidden: int, inner: int, layers: int) -> list[Tensors]:
    return [
        *_linear("mlp.up", inner, hidden, layers, bias=True),
        *_linear("mlp.down", hidden, inner, layers, bias=True),
    ]


def _gated_mlp(config: Config, layers: int) -> list[Tensors]:
    hidden, inner, bias = config["hidden_size"], config["intermediate_size"], bool(config.get("mlp_bias"))
    return [
        *_linear("mlp.gate", inner, hidden, layers, bias=bias),
        *_linear("mlp.up", inner, hidden, layers, bias=bias),
        *_linear("mlp.down", hidden, inner, layers, bias=bias),
    ]


def _experts(config: Config) -> int:
    return int(config.get("num_local_experts") or config.get("num_experts") or 0)


def _mixture(config: Config, layers: int) -> list[Tensors]:
    """All experts of a layer lie in two stacked tensors, gate with up and down; the router is a linear."""
    hidden, experts = config["hidden_size"], _experts(config)
    inner = config.get("moe_intermediate_size") or config["intermediate_size"]
    return [
        Tensors("mlp.experts.gate_up", "layers", (experts, 2 * inner, hidden), layers),
        Tensors("mlp.experts.down", "layers", (experts, hidden, inner), layers),
        Tensors("mlp.router", "layers", (experts, hidden), layers),
    ]


def _head(config: Config, width: int, *, tied_by_default: bool) -> list[Tensors]:
    tied = config.get("tie_word_embeddings")
    tied = tied_by_default if tied is None else tied
    return [] if tied else [Tensors("head", "head", (config["vocab_size"], width))]
