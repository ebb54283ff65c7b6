"""The frozen base under one model's adapters, in the place of another's own: the same tensors, not loaded again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from distft.common.errors import UserError
from distft.models.adapters.adapt import is_adapter

_BESIDE = ".base_layer."  # where PEFT puts a layer that has adapters


@dataclass(frozen=True)
class Base:
    """A model's own parameters and buffers by the names that they have without adapters."""

    path: str
    parameters: Mapping[str, nn.Parameter] = field(repr=False)
    buffers: Mapping[str, Tensor] = field(repr=False)

    @classmethod
    def under(cls, model: nn.Module, path: str) -> Base:
        """What lies under the adapters of a model that was loaded from ``path``."""
        own = {name: one for name, one in model.named_parameters() if not is_adapter(name)}
        return cls(path, _without_adapters(own), _without_adapters(dict(model.named_buffers())))

    def lie_under(self, model: nn.Module, own: Collection[str], where: str) -> list[nn.Parameter]:
        """Gives a model on the meta device these tensors as its own. Those that it has ``own``, by name, get memory on
        the CPU, still to be filled. Returns the parameters that it now has in common.

        Buffers are copied: what a model changes in its own is not the other's. Raises UserError, which says ``where``
        the model is named, for one that has others, or of other sizes.
        """
        common = []
        for name, parameter in list(model.named_parameters()):
            if name in own:
                _put(model, name, nn.Parameter(torch.empty_like(parameter, device="cpu")))
                continue
            found = self.parameters.get(name)
            if found is None or getattr(found, "ds_shape", found.shape) != parameter.shape:
                what = f"its {name} {list(parameter.shape)} is not in {self.path}, the policy's start"
                hint = "a model lies over the base that it was trained from; without share: policy it has its own"
                raise UserError(what, where=where, hint=hint)
            _put(model, name, found)
            common.append(found)
        for name, buffer in list(model.named_buffers()):
            owner, _, last = name.rpartition(".")
            if buffer.is_meta:
                model.get_submodule(owner)._buffers[last] = self.buffers[name].clone()
        return common


def _put(model: Any, name: str, parameter: nn.Parameter) -> None:
    owner, _, last = name.rpartition(".")
    model.get_submodule(owner)._parameters[last] = parameter


def _without_adapters(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace(_BESIDE, "."): one for name, one in named.items()}
