"""Sizes of public models by their hub names: what a plan on paper needs when nothing has been fetched.

The numbers of their published config.json files; the test holds every total against the published number of
parameters. A folder on this machine, or one in the hub cache, goes first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from distft.common.errors import nearest

# One family's models: what they share, and by name hidden, intermediate, layers, heads, key-value heads, vocabulary.
_Table = tuple[dict[str, Any], str]
_LLAMA = {"model_type": "llama", "tie_word_embeddings": False}
_TIED = {"model_type": "llama", "tie_word_embeddings": True}
_MISTRAL = {"model_type": "mistral", "tie_word_embeddings": False}
_QWEN2 = {"model_type": "qwen2", "tie_word_embeddings": False}
_QWEN3 = {"model_type": "qwen3", "head_dim": 128, "tie_word_embeddings": False}
_QWEN3_MOE = _QWEN3 | {"model_type": "qwen3_moe", "num_experts": 128, "num_experts_per_tok": 8}
_GEMMA2 = {"model_type": "gemma2", "head_dim": 256, "tie_word_embeddings": True}
_TABLES: tuple[_Table, ...] = (
    (_LLAMA, """
        meta-llama/Llama-2-7b-hf          4096 11008  32  32 32  32000
        meta-llama/Llama-2-13b-hf         5120 13824  40  40 40  32000
        meta-llama/Llama-2-70b-hf         8192 28672  80  64  8  32000
        meta-llama/Meta-Llama-3-8B        4096 14336  32  32  8 128256
        meta-llama/Meta-Llama-3-70B       8192 28672  80  64  8 128256
        meta-llama/Llama-3.1-8B           4096 14336  32  32  8 128256
        meta-llama/Llama-3.1-70B          8192 28672  80  64  8 128256
        meta-llama/Llama-3.1-405B        16384 53248 126 128  8 128256
        meta-llama/Llama-3.3-70B          8192 28672  80  64  8 128256
        deepseek-ai/DeepSeek-R1-Distill-Llama-8B      4096 14336 32 32 8 128256
        deepseek-ai/DeepSeek-R1-Distill-Llama-70B     8192 28672 80 64 8 128256
        Skywork/Skywork-Reward-Llama-3.1-8B           4096 14336 32 32 8 128256
        Skywork/Skywork-Reward-Llama-3.1-8B-v0.2      4096 14336 32 32 8 128256
        TinyLlama/TinyLlama-1.1B-Chat-v1.0            2048  5632 22 32 4  32000
    """),
    (_TIED | {"head_dim": 64}, """
        meta-llama/Llama-3.2-1B           2048  8192  16  32  8 128256
        HuggingFaceTB/SmolLM2-135M         576  1536  30   9  3  49152
        HuggingFaceTB/SmolLM2-360M         960  2560  32  15  5  49152
        HuggingFaceTB/SmolLM2-1.7B        2048  8192  24  32 32  49152
    """),
    (_TIED | {"head_dim": 128}, "meta-llama/Llama-3.2-3B  3072 8192 28 24 8 128256"),
    (_MISTRAL, """
        mistralai/Mistral-7B-v0.1         4096 14336  32  32  8  32000
        mistralai/Mistral-7B-v0.3         4096 14336  32  32  8  32768
        mistralai/Mistral-7B-Instruct-v0.1            4096 14336 32 32 8  32000
        mistralai/Mistral-7B-Instruct-v0.2            4096 14336 32 32 8  32000
        mistralai/Mistral-7B-Instruct-v0.3            4096 14336 32 32 8  32768
    """),
    (_MISTRAL | {"head_dim": 128}, """
        mistralai/Mistral-Nemo-Base-2407              5120 14336 40 32 8 131072
        mistralai/Mistral-Nemo-Instruct-2407          5120 14336 40 32 8 131072
        mistralai/Mistral-Small-24B-Base-2501         5120 32768 40 32 8 131072
        mistralai/Mistral-Small-24B-Instruct-2501     5120 32768 40 32 8 131072
    """),
    (_MISTRAL | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}, """
        mistralai/Mixtral-8x7B-v0.1                   4096 14336 32 32 8  32000
        mistralai/Mixtral-8x7B-Instruct-v0.1          4096 14336 32 32 8  32000
    """),
    (_QWEN2 | {"tie_word_embeddings": True}, """
        Qwen/Qwen2.5-0.5B                  896  4864  24  14  2 151936
        Qwen/Qwen2.5-1.5B                 1536  8960  28  12  2 151936
        Qwen/Qwen2.5-3B                   2048 11008  36  16  2 151936
    """),
    (_QWEN2, """
        Qwen/Qwen2.5-7B                   3584 18944  28  28  4 152064
        Qwen/Qwen2.5-14B                  5120 13824  48  40  8 152064
        Qwen/Qwen2.5-32B                  5120 27648  64  40  8 152064
        Qwen/Qwen2.5-72B                  8192 29568  80  64  8 152064
        deepseek-ai/DeepSeek-R1-Distill-Qwen-7B       3584 18944 28 28 4 152064
        deepseek-ai/DeepSeek-R1-Distill-Qwen-14B      5120 13824 48 40 8 152064
        deepseek-ai/DeepSeek-R1-Distill-Qwen-32B      5120 27648 64 40 8 152064
    """),
    (_QWEN3 | {"tie_word_embeddings": True}, """
        Qwen/Qwen3-0.6B                   1024  3072  28  16  8 151936
        Qwen/Qwen3-1.7B                   2048  6144  28  16  8 151936
        Qwen/Qwen3-4B                     2560  9728  36  32  8 151936
    """),
    (_QWEN3, """
        Qwen/Qwen3-8B                     4096 12288  36  32  8 151936
        Qwen/Qwen3-14B                    5120 17408  40  40  8 151936
        Qwen/Qwen3-32B                    5120 25600  64  64  8 151936
    """),
    (_QWEN3_MOE | {"moe_intermediate_size": 768}, "Qwen/Qwen3-30B-A3B     2048  6144 48 32 4 151936"),
    (_QWEN3_MOE | {"moe_intermediate_size": 1536}, "Qwen/Qwen3-235B-A22B  4096 12288 94 64 4 151936"),
    (_GEMMA2, """
        google/gemma-2-2b                 2304  9216  26   8  4 256000
        google/gemma-2-9b                 3584 14336  42  16  8 256000
    """),
    (_GEMMA2 | {"head_dim": 128}, "google/gemma-2-27b     4608 36864 46 32 16 256000"),
    (_GEMMA2 | {"model_type": "gemma3_text"}, """
        google/gemma-3-270m                640  2048  18   4  1 262144
        google/gemma-3-1b-pt              1152  6912  26   4  1 262144
    """),
    ({"model_type": "phi3", "tie_word_embeddings": False}, """
        microsoft/Phi-3-mini-4k-instruct  3072  8192  32  32 32  32064
        microsoft/phi-4                   5120 17920  40  40 10 100352
    """),
    ({"model_type": "phi3", "tie_word_embeddings": True}, "microsoft/Phi-4-mini-instruct 3072 8192 32 24 8 200064"),
)  # fmt: skip
_COLUMNS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip
_FLAN_T5_BASE = {
    "model_type": "t5", "d_model": 768, "d_ff": 2048, "d_kv": 64, "num_heads": 12, "num_layers": 12,
    "num_decoder_layers": 12, "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip

# What is tuned from a base has its sizes, and says so at the end of its name; Meta has two spellings.
_TUNED = re.compile(r"(-Instruct|-instruct|-it|-chat|-Base|-pt|-hf)(-2507)?$|-Thinking-2507$")


def _read() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for shared, table in _TABLES:
        for line in filter(None, map(str.strip, table.splitlines())):
            name, *numbers = line.split()
            yield name, {**shared, **dict(zip(_COLUMNS, map(int, numbers), strict=True))}
    yield "google/flan-t5-base", _FLAN_T5_BASE


_CONFIGS = dict(_read())
_BASES = {_TUNED.sub("", name): name for name in _CONFIGS}


def known_config(name: str) -> Mapping[str, Any] | None:
    """The config of a public model, or of the base that a tuned one names (``-Instruct``, ``-it``, ...); else None."""
    name = name.replace("/Meta-Llama-3.1-", "/Llama-3.1-")
    base = name
    while base not in _BASES and (shorter := _TUNED.sub("", base)) != base:
        base = shorter
    return _CONFIGS.get(name) or _CONFIGS.get(_BASES.get(base, ""))


def nearest_known(name: str) -> str:
    """The known name that was probably meant: one whose owner is left out, or misspelled a little; "" if none."""
    given, _, wanted = name.rpartition("/")
    owners = dict.fromkeys(known.partition("/")[0] for known in _CONFIGS)
    for owner in owners:
        if owner != given and known_config(f"{owner}/{wanted}") is not None:
            return f"{owner}/{wanted}"
    if given not in ("", *owners):
        return ""
    names = {known.partition("/")[2]: known for known in _CONFIGS if given in ("", known.partition("/")[0])}
    return names.get(nearest(wanted, names), "")
