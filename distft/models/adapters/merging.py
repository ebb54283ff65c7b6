"""Adapters merged into the weights that they lie beside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distft.common.errors import UserError
from distft.common.files import parse_json
from distft.config.adapters.adapter import DIFFERENCE, NETWORK, UNMERGED
from distft.config.adapters.kinds import ADAPTERS
from distft.models.adapters import bottleneck, diff_pruning, prefix, prompt
from distft.models.adapters.adapt import KINDS, adapted_parts
from distft.models.quantization import dequantized, is_quantized, was_conv1d
from distft.models.unreadable import first_line
from distft.planning.model_folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS

_BASE = ".base_layer."


def merge_adapter(model: Any, folder: str) -> Any:
    """The model with a PEFT adapter's update added to its weights, for computing only; where it cannot be, or weights
    are quantized, with the adapter beside them. Raises UserError where the folder holds none, or that of another model.
    """
    from peft import PeftModel

    with reading(model, folder):
        said = parse_json((Path(folder) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        kind = said.get("peft_type")
        if kind == NETWORK:
            network: Any = ADAPTERS[said["adapter"]["method"]](**said["adapter"])
            return bottleneck.read(model, network, folder)
        if kind == DIFFERENCE:
            return diff_pruning.read(model, folder)
        if kind in UNMERGED:
            return (prefix if kind == "PREFIX_TUNING" else prompt).read(model, folder)
        adapted: Any = PeftModel.from_pretrained(model, folder)
        if is_quantized(model):  # what is added would be rounded away
            return adapted.base_model.model
        return adapted.merge_and_unload()


@contextmanager
def reading(model: Any, folder: str) -> Iterator[None]:
    """While open, the adapter in a folder is put into a model. Raises UserError where the folder holds none, or that of
    another model."""
    if not (Path(folder) / ADAPTER_WEIGHTS).is_file():
        what = f"has no {ADAPTER_WEIGHTS}, and a pickle can run code when it is read"
        raise UserError(what, where=folder, hint="load it with PEFT, and save_pretrained it again")
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise UserError(
            f"cannot be put into {type(model).__name__}: {first_line(error)}",
            where=folder,
            hint="is it a PEFT adapter (adapter_config.json) that was trained from this model?",
        ) from error


def plain_tensors(tensors: Iterable[tuple[str, Tensor]], model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The same model without adapters and quantization, under the names that it had without them.

    ``tensors`` are all parameters of ``model``, whole, in the order of its modules. What is merged is computed in
    float32 and rounded to the model's dtype once.
    """
    layers, current = adapted_parts(model), ""
    own: dict[str, Tensor] = {}
    learned: dict[str, Tensor] = {}
    for name, tensor in tensors:
        layer = _layer_of(name, layers)
        if layer != current and current:
            yield from _merged(current, layers[current], own, learned)
            own, learned = {}, {}
        current = layer
        if not layer:
            owner = model.get_submodule(name.rpartition(".")[0])
            whole = dequantized(owner, tensor) if name.endswith(".weight") else tensor
            yield name, whole.T.contiguous() if name.endswith(".weight") and was_conv1d(owner) else whole
        elif _BASE in name:
            part = name.rpartition(".")[2]
            kept = dequantized(layers[layer].base_layer, tensor) if part == "weight" else tensor.detach()
            own[part] = kept.clone()
        else:
            learned[name.removeprefix(layer)] = tensor.detach().clone()
    if current:
        yield from _merged(current, layers[current], own, learned)


def _layer_of(name: str, layers: dict[str, Any]) -> str:
    """The adapted layer that a parameter belongs to; "" where it does to none."""
    parts = name.split(".")
    return next((found for end in range(len(parts) - 1, 0, -1) if (found := ".".join(parts[:end])) in layers), "")


def _merged(name: str, layer: Any, own: dict[str, Tensor], learned: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    kind = next(kind for kind in KINDS if hasattr(layer, kind.mark))
    for part, tensor in kind.merged(layer, own, learned).items():
        rounded = tensor.to(own[part].dtype)
        turned = part == "weight" and was_conv1d(layer.base_layer)
        yield f"{name}.{part}", rounded.T.contiguous() if turned else rounded
