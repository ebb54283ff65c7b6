"""Sparse differences beside linear layers: beside ``q_proj.base_layer.weight`` lie ``q_proj.pruned_difference.values
[out, in]`` and ``gates [out * in]``, and ``settled``, what gates are once they are settled. PEFT has no such adapter:
what is kept has names and a config of its own, and is only what is not zero.

Which gates are drawn, and when they are settled, ``engine.gates`` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from distft.common.errors import UserError
from distft.config.adapters.adapter import DIFFERENCE
from distft.config.adapters.diff_pruning import DiffPruning
from distft.models.adapters.hard_concrete import OPEN, drawn_gates, settled_or, through_gates
from distft.models.adapters.kind import Kind
from distft.models.adapters.layers import ADAPTER, WRAPPED, targets
from distft.models.adapters.own_config import OwnConfig
from distft.models.quantization import is_quantized
from distft.planning.model_folders import ADAPTER_WEIGHTS

MARK: Final = "pruned_difference"
_VALUES, _GATES, _SETTLED = (f".{MARK}.{part}" for part in ("values", "gates", "settled"))
_PLACES, _CHANGES = f".{MARK}.places", f".{MARK}.changes"  # in files
SUFFIXES: Final = (_VALUES, _GATES, _SETTLED, _PLACES, _CHANGES)


class PrunedDifference(nn.Module):
    """``x`` through ``z * w``; ``seed`` draws gates while it trains, None leaves them at their medians."""

    settled: Tensor

    def __init__(self, shape: tuple[int, int], start: float, device: torch.device) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(shape, device=device))
        self.gates = nn.Parameter(torch.full((shape[0] * shape[1],), start, device=device))
        self.register_buffer("settled", torch.full(shape, OPEN, device=device))
        self.seed: int | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        seed = self.seed if self.training else None
        return through_gates(inputs, self.values, self.gates, self.settled, seed)

    def change(self, values: Tensor, gates: Tensor) -> Tensor:
        """What is added to a weight ``[out, in]``, of those parameters, whole, in float32."""
        return self.medians(gates) * values.float()

    def medians(self, gates: Tensor) -> Tensor:
        """Gates ``[out, in]`` of those logits ``[out * in]``, whole, as they are settled, and else at their medians."""
        settled = self.settled.to(gates.device)
        return settled_or(drawn_gates(gates.view_as(settled), None)[0], settled)


class ChangedLayer(nn.Module):
    """A linear layer, and what is added to its weight."""

    def __init__(self, base_layer: Any, start: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.base_layer = base_layer
        turned = isinstance(base_layer, Conv1D)
        shape = (base_layer.nf, base_layer.nx) if turned else (base_layer.out_features, base_layer.in_features)
        self.pruned_difference = PrunedDifference(shape, start, base_layer.weight.device).to(dtype)
        self._enabled = True

    @property
    def weight(self) -> Tensor:
        """The layer's own, of which some models ask the dtype."""
        found: Tensor = self.base_layer.weight
        return found

    def forward(self, inputs: Tensor) -> Tensor:
        """As the layer, and what the difference adds."""
        found: Tensor = self.base_layer(inputs)
        return found + self.pruned_difference(inputs) if self._enabled else found

    def enable_adapters(self, *, enabled: bool) -> None:
        """Off, the model computes what it did without."""
        self._enabled = enabled


def add(model: Any, diff: DiffPruning, *, dropout: bool, seed: int, fresh: bool) -> None:  # noqa: ARG001 - none drawn
    """Puts differences, all zero, beside linear layers. Raises UserError for layers that are not there."""
    dtype = model.dtype
    for name in targets(model, diff.layers(model.config.model_type).named):
        owner, _, leaf = name.rpartition(".")
        changed = ChangedLayer(model.get_submodule(name), diff.gate_start, dtype)
        setattr(model.get_submodule(owner), leaf, changed)
    model.peft_config = {ADAPTER: OwnConfig(diff.model_dump(mode="json"), DIFFERENCE)}


def in_files(model: Any, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``trained`` with, of each difference, only what is not zero, in float32, and its places in the flat weight; of
    layers that are not changed nothing."""
    found = {name: tensor for name, tensor in trained.items() if not name.endswith((_VALUES, _GATES))}
    for name, layer in model.named_modules():
        if isinstance(layer, ChangedLayer):
            change = _change(layer, trained[f"{name}{_VALUES}"], trained[f"{name}{_GATES}"]).flatten()
            places = change.nonzero().flatten()
            if len(places):
                found[f"{name}{_PLACES}"], found[f"{name}{_CHANGES}"] = places, change[places]
    return found


def read(model: Any, folder: str) -> Any:
    """The model with the changes that lie in a folder of ours added to its weights, and heads that were trained whole.
    Raises UserError where its weights are quantized, KeyError and ValueError where that is of another model."""
    if is_quantized(model):
        what = "changes single numbers of the weights, which a quantized model does not have"
        raise UserError(what, where=folder, hint="read the model whole: leave --quantization out")
    kept = load_file(Path(folder) / ADAPTER_WEIGHTS)
    with torch.no_grad():
        for name, tensor in kept.items():
            if name.endswith(_PLACES):
                layer = name.removesuffix(_PLACES)
                weight = model.get_submodule(layer).weight
                places, whole = tensor.to(weight.device), weight.detach().float().flatten()
                if int(places.max()) >= len(whole):
                    raise ValueError(f"{layer} has {len(whole)} numbers, the difference changes number {places.max()}")
                whole[places] += kept[f"{layer}{_CHANGES}"].to(weight.device)
                weight.copy_(whole.view_as(weight))
            elif not name.endswith(_CHANGES):
                parameter = model.get_parameter(name.removeprefix(f"{WRAPPED}."))
                parameter.copy_(tensor)
    return model


def _merged(layer: Any, own: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``W + z * w``; a bias stays what it is."""
    return {**own, "weight": own["weight"].float() + _change(layer, learned[_VALUES], learned[_GATES])}


def _change(layer: ChangedLayer, values: Tensor, gates: Tensor) -> Tensor:
    """As the layer's weight lies."""
    change = layer.pruned_difference.change(values, gates)
    return change.T.contiguous() if isinstance(layer.base_layer, Conv1D) else change


KIND: Final = Kind(MARK, SUFFIXES, merged=_merged)
