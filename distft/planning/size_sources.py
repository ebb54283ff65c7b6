"""Where the sizes of a model are known from, without reading weights.

Sources, in this order: ``init:`` sizes of the recipe, the folder's ``config.json``, for architectures that
``architectures`` does not know the shapes in the safetensors headers, and for a public model that is not on
this machine the table of ``known_models``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distft.common.errors import UserError, nearest
from distft.planning.architectures import FAMILIES, Block, Tensors
from distft.planning.known_models import known_config, nearest_known
from distft.planning.model_folders import local_folder, read_config
from distft.planning.model_sizes import ModelSizes
from distft.planning.weight_files import COPY_AGAIN, tensor_shapes

if TYPE_CHECKING:
    from distft.config.models import Init


# What configs call the number of experts that a token goes to.
_CHOSEN = ("num_experts_per_tok", "experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts")


def sizes_from_config(config: Mapping[str, Any], *, where: str = "config.json") -> ModelSizes:
    """From the contents of a ``config.json``. Raises UserError for an unknown ``model_type`` or a missing key."""
    family = str(config.get("model_type", ""))
    table = FAMILIES.get(family)
    if table is None:
        known = nearest(family, FAMILIES)
        raise UserError(
            f"sizes of model_type {family!r} are not known", where=where, hint=f"nearest: {known}" if known else ""
        )
    try:
        return _assemble(family, table(config), config)
    except KeyError as missing:
        raise UserError(f"has no {missing}, which {family} needs", where=where, hint=COPY_AGAIN) from missing


def sizes_from_init(init: Init) -> ModelSizes:
    """From the recipe's ``init:``."""
    if init.architecture == "t5":
        sizes: dict[str, Any] = {
            "d_model": init.hidden_size,
            "d_ff": init.feed_forward_size,
            "d_kv": init.hidden_size // init.num_heads,
            "num_layers": init.num_layers,
            "num_heads": init.num_heads,
            "feed_forward_proj": "gated-gelu",
        }
    else:
        sizes = {
            "hidden_size": init.hidden_size,
            "intermediate_size": init.feed_forward_size,
            "num_hidden_layers": init.num_layers,
            "num_attention_heads": init.num_heads,
            "num_key_value_heads": init.key_value_heads,
            "max_position_embeddings": init.max_positions,
        }
    said = {"vocab_size": init.vocab_size, "tie_word_embeddings": init.tie_embeddings}
    return sizes_from_config({"model_type": init.architecture, **sizes, **said})


def sizes_from_folder(folder: Path) -> ModelSizes:
    """From a model folder. Raises UserError when neither config.json nor safetensors headers tell."""
    config = read_config(folder)
    if config.get("is_encoder_decoder") and "lm_head.weight" in tensor_shapes(folder):
        config["tie_word_embeddings"] = False  # transformers 5 writes of every T5 that it is tied
    if str(config.get("model_type")) in FAMILIES:
        return sizes_from_config(config, where=str(folder / "config.json"))
    shapes = tensor_shapes(folder)
    if not shapes:
        return sizes_from_config(config, where=str(folder / "config.json"))
    return _assemble(str(config.get("model_type")), tensors_from_shapes(shapes), config)


def sizes_from_path(path: str) -> ModelSizes:
    """Of a folder, of what lies in the hub cache, or of a public model whose sizes are known without it.

    Raises UserError where they are not to be found on this machine.
    """
    folder = local_folder(path)
    if folder is not None:
        return sizes_from_folder(folder)
    config = known_config(path)
    if config is not None:
        return sizes_from_config(config, where=path)
    meant = nearest_known(path)
    hint = f"did you mean {meant}?" if meant else "fetch it first, or give a folder with its config.json"
    raise UserError("is not on this machine, so its sizes are not known", where=path, hint=hint)


def _assemble(family: str, tensors: Iterable[Tensors], config: Mapping[str, Any]) -> ModelSizes:
    tensors = tuple(tensors)
    hidden = _first(config, "hidden_size", "n_embd", "d_model", default=0)
    heads = _first(config, "num_attention_heads", "n_head", "num_heads", default=1)
    encoder_decoder = "d_kv" in config or bool(config.get("is_encoder_decoder"))
    layers = _first(config, "num_hidden_layers", "n_layer", "num_layers", default=1)
    if encoder_decoder:
        layers += config.get("num_decoder_layers") or layers
    inner = _first(
        config, "moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", "d_ff", default=4 * hidden
    )
    return ModelSizes(
        family=family,
        tensors=tensors,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=_first(config, "num_key_value_heads", default=heads),
        head_dim=_first(config, "head_dim", "d_kv", default=max(1, hidden // heads)),
        intermediate=inner * (_first(config, "num_experts_per_tok", default=1)),
        vocab=_first(config, "vocab_size", default=0),
        gated=any(tensor.name in ("mlp.gate", "mlp.gate_up", "mlp.experts.gate_up") for tensor in tensors)
        or "gated" in str(config.get("feed_forward_proj")),
        tied=not any(tensor.block == "head" for tensor in tensors),
        encoder_decoder=encoder_decoder,
        choices=layers * _first(config, *_CHOSEN, default=1)
        if any("experts" in key and config[key] for key in config)
        else 0,
    )


def tensors_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> list[Tensors]:
    """Blocks by name: what a number follows is a layer, what is called head or classifier is the head."""
    tensors: dict[tuple[str, Block, tuple[int, ...]], int] = {}
    for name, shape in shapes.items():
        parts = name.split(".")
        block: Block = "embedding" if "embed" in name else "norm"
        if any(part.isdigit() for part in parts):
            block = "layers"
        elif any(word in name for word in ("head", "classifier", "score", "cls")):
            block = "head"
        key = (".".join("*" if part.isdigit() else part for part in parts), block, shape)
        tensors[key] = tensors.get(key, 0) + 1
    return [
        Tensors(name, block, shape, count, linear=block == "layers" and len(shape) == 2 and "embed" not in name)
        for (name, block, shape), count in tensors.items()
    ]


def _first(config: Mapping[str, Any], *names: str, default: int) -> int:
    return next((int(config[name]) for name in names if config.get(name)), default)
