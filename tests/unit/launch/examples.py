"""Small recipes, clusters and model folders that the tests of this folder start from."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from distft.config.cluster import Cluster
from distft.config.load import check_recipe
from distft.config.recipe import Recipe
from distft.config.yaml_file import parse_yaml
from distft.planning.machine import Machine

INIT = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 512}
LAPTOP = Machine(cpus=2, memory_gib=16.0, loopback="lo")
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}


LONG = {
    "train.global_batch_size": 64, "train.max_tokens_per_rank": 4096, "data.max_length": 2048,
    "data.max_prompt_length": 1024, "rollout.max_new_tokens": 1024,
}  # fmt: skip


def recipe(kind: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A right recipe of a kind, with dotted keys changed."""
    model = {"init": dict(INIT), "dtype": "float32"}
    models: dict[str, Any] = {"reward": dict(model)} if kind == "reward" else {"policy": dict(model)}
    if kind == "ppo":
        models["reward"] = dict(model)
    tree: dict[str, Any] = {
        "format": 1,
        "name": "test",
        "output_dir": "runs/test",
        "algorithm": {"kind": kind},
        "models": models,
        "data": {"train": [{"path": "builtin:dialogues"}], "max_length": 128, "max_prompt_length": 64},
        "rollout": {"max_new_tokens": 64},
        "train": {"steps": 2, "global_batch_size": 8, "max_tokens_per_rank": 1024},
    }
    for key, value in (changes or {}).items():
        *parents, last = key.split(".")
        section = tree
        for name in parents:
            section = section.setdefault(name, {})
        section[last] = value
    return check_recipe(parse_yaml(yaml.safe_dump(tree), "test.yaml"))


def llama(kind: str, changes: Mapping[str, Any] | None = None, **model: Any) -> Recipe:
    """A recipe of Llama-3 8B in bfloat16 on sequences of 2,048 tokens."""
    role = "reward" if kind == "reward" else "policy"
    models: dict[str, Any] = {role: {"path": "meta-llama/Meta-Llama-3-8B", "dtype": "bfloat16", **model}}
    if kind == "ppo":
        models["reward"] = {"path": "meta-llama/Meta-Llama-3-8B", "dtype": "bfloat16"}
    return recipe(kind, {"models": models, **LONG, **(changes or {})})


def from_folder(kind: str, folder: Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """As ``recipe``, every model of it from one folder, in bfloat16."""
    roles = {"reward": ("reward",), "ppo": ("policy", "reward")}.get(kind, ("policy",))
    models = {role: {"path": str(folder), "dtype": "bfloat16"} for role in roles}
    return recipe(kind, {"models": models, **(changes or {})})


def cpu_cluster(nodes: int = 1, cpus: int = 2, ranks_per_cpu: int = 4, memory_gib: float = 64) -> Cluster:
    """A Slurm cluster without GPUs."""
    node = {"cpus": cpus, "ranks_per_cpu": ranks_per_cpu, "memory_gib": float(memory_gib)}
    return Cluster.model_validate({"name": "cpus", "kind": "slurm", "nodes": nodes, "node": node})


def gpu_cluster(
    nodes: int = 1, gpus: int = 8, memory_gib: float = 79.1, bandwidth_gbps: float | None = 3200.0
) -> Cluster:
    """A Slurm cluster with the rates of H100s and eight network ports of 400 Gbit/s."""
    gpu = {
        "type": "h100",
        "memory_gib": float(memory_gib),
        "bf16_tflops": 989.0,
        "memory_bandwidth_gbs": 3350.0,
        "interconnect_gbs": 900.0,
    }
    node = {"cpus": 96, "gpus": gpus, "gpu": gpu, "memory_gib": 1900.0}
    network = {"bandwidth_gbps": bandwidth_gbps}
    return Cluster.model_validate({"name": "gpus", "kind": "slurm", "nodes": nodes, "node": node, "network": network})


def config_folder(folder: Path, config: Mapping[str, Any]) -> Path:
    """A folder with nothing but a config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_safetensors(path: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """A whole safetensors file of float32 zeros."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def model_folder(folder: Path, *, tokens: Sequence[str] = ("a", "b", "c"), head: Sequence[int] | None = None,
                 vocab_size: int = 8) -> Path:  # fmt: skip
    """A tiny Llama's folder: config.json, one safetensors file, tokenizer.json; with a scalar head if wanted."""
    config = {
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": vocab_size, "tie_word_embeddings": True,
    }  # fmt: skip
    config_folder(folder, config)
    shapes: dict[str, Sequence[int]] = {"model.embed_tokens.weight": (vocab_size, 8)}
    if head is not None:
        shapes["score.weight"] = head
    write_safetensors(folder / "model.safetensors", shapes)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))
    return folder
