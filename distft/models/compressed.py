"""Linear layers of a decoder in fewer bits, as files that vLLM and transformers read: the format of compressed-tensors,
which is imported where it is used.

Weights are rounded to the nearest value, no data is looked at: of the values ``q * s`` the scale s is the largest
magnitude of a row, or of a group of neighbours in it, over half the range of q. Embeddings and head stay what they are.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from distft.common.errors import UserError
from distft.config.fewer_bits import SCHEMES
from distft.models.load import quiet_transformers


def compress(folder: Path, target: Path, scheme: str) -> None:
    """Writes config.json and weights of the decoder in ``folder`` into ``target``, its linear layers in ``scheme`` (of
    ``SCHEMES``). Raises UserError where it has none, stacked experts, or layers that no whole number of groups fits."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.compressors.format import infer_model_format
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config, preset_name_to_scheme

    with quiet_compressor():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True)
        wanted = preset_name_to_scheme(SCHEMES[scheme], ["Linear"])
        if scheme == "w8a16":  # the preset has groups of 128, which eight bits do not need
            wanted.weights = wanted.weights.model_copy(update={"strategy": "channel", "group_size": None})
        head = model.get_output_embeddings()
        spared = [name for name, part in model.named_modules() if part is head]
        layers = {name: part for name, part in model.named_modules() if type(part) is nn.Linear and part is not head}
        _require_fitting(model, layers, scheme, wanted.weights.group_size)
        apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": wanted}, ignore=spared))
        for layer in layers.values():
            _scale(layer, wanted.weights)
        written = QuantizationConfig.from_pretrained(model, format=infer_model_format(model).value)
        compressor = ModelCompressor(quantization_config=written)
        compressor.compress_model(model)
        model.save_pretrained(target)
        compressor.update_config(str(target))


def _require_fitting(model: Any, layers: dict[str, nn.Linear], scheme: str, group: int | None) -> None:
    where = f"--quantize {scheme}"
    kind = type(model).__name__
    if stacked := next((name for name, one in model.named_parameters() if one.dim() > 2), None):
        what = f"{kind} stacks its experts in one tensor ({stacked}), which has no linear layers to quantize"
        raise UserError(what, where=where, hint="leave --quantize out")
    if not layers:
        what = f"{kind} has no linear layers that compressed-tensors knows (GPT-2 keeps its weights turned)"
        raise UserError(what, where=where, hint="leave --quantize out")
    odd = next((name for name, part in layers.items() if group and part.in_features % group), None)
    if odd is not None:
        what = f"{odd} of {kind} has {layers[odd].in_features} inputs, which are no whole number of groups of {group}"
        raise UserError(what, where=where, hint="--quantize w8a16 has a scale for each row")


def _scale(layer: Any, weights: Any) -> None:
    """Fills in the scales of the layer's weight, ``[out, in / group]``, or ``[out, 1]``."""
    from compressed_tensors.quantization.utils import calculate_qparams

    matrix = layer.weight.detach().float()
    groups = matrix.view(len(matrix), -1, weights.group_size or matrix.shape[1])
    scales, _ = calculate_qparams(groups.amin(dim=-1), groups.amax(dim=-1), weights)
    with torch.no_grad():
        layer.weight_scale.copy_(scales)


@contextmanager
def quiet_compressor() -> Iterator[None]:
    """Without its log and its progress bars, which reading and the first pass of what was written have, too."""
    from loguru import logger

    logger.disable("compressed_tensors")
    try:
        with redirect_stderr(io.StringIO()), quiet_transformers():
            yield
    finally:
        logger.enable("compressed_tensors")
