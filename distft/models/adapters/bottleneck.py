"""Small networks behind linear layers (Houlsby) or beside blocks of them (parallel). PEFT has neither: what is kept has
names and a config of its own, which ``read`` puts into a fresh base.

``o_proj.bottleneck.adapter_down [size, width]`` and ``adapter_up [width, size]`` with biases; the layer keeps its name,
and is hooked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from distft.common.errors import UserError
from distft.config.adapters.adapter import NETWORK
from distft.config.adapters.bottleneck import Network
from distft.models.adapters.kind import Kind
from distft.models.adapters.layers import ADAPTER, WHERE, drawing, drawn_on, targets
from distft.models.adapters.own_config import OwnConfig
from distft.planning.model_folders import ADAPTER_WEIGHTS

MARK: Final = "adapter_down"
_NAME: Final = "bottleneck"
SUFFIXES: Final = tuple(
    f".{_NAME}.{layer}.{part}" for layer in (MARK, "adapter_up") for part in ("weight", "bias")
)  # fmt: skip
_ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {"relu": functional.relu, "gelu": functional.gelu}


class SmallNetwork(nn.Module):
    """``factor * up(f(down(x)))``, 0 until it is trained."""

    def __init__(self, width: int, network: Network) -> None:
        super().__init__()
        self.adapter_down = nn.Linear(width, network.bottleneck_size)
        self.adapter_up = nn.Linear(network.bottleneck_size, width)
        nn.init.zeros_(self.adapter_up.weight)
        nn.init.zeros_(self.adapter_up.bias)
        self._activation, self._factor = _ACTIVATIONS[network.activation], network.factor
        self._enabled = True

    def forward(self, inputs: Tensor) -> Tensor:
        """``[..., width]`` to as many."""
        added: Tensor = self.adapter_up(self._activation(self.adapter_down(inputs)))
        return added if self._factor == 1 else self._factor * added

    def enable_adapters(self, *, enabled: bool) -> None:
        """Off, the model computes what it did without."""
        self._enabled = enabled

    def behind(self, _layer: Any, _args: Any, output: Tensor) -> Tensor | None:
        """What a layer gives, and what is made of that."""
        return output + self(output) if self._enabled else None

    def beside(self, _block: Any, args: tuple[Any, ...], given: dict[str, Any], output: Any) -> Any:
        """What a block gives, and what is made of what it reads."""
        if not self._enabled:
            return None
        added = self(args[0] if args else given["hidden_states"])
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added


def add(model: Any, network: Network, *, dropout: bool, seed: int, fresh: bool) -> None:  # noqa: ARG001 - none
    """Puts them behind or beside layers. Raises UserError where those are not known or not there, two are in one
    block, or one beside which it is to stand does not end its own."""
    try:
        layers = network.layers(model.config.model_type)
    except LookupError:
        what = f"which layers of {type(model).__name__} end its attention and MLP is not known"
        raise UserError(what, where=WHERE, hint="name them in target_modules") from None
    for name in targets(model, layers.named):
        layer = model.get_submodule(name)
        place = model.get_submodule(name.rpartition(".")[0]) if network.beside else layer
        if hasattr(place, _NAME):
            what = f"two of {', '.join(layers.named or ())} are in one {type(place).__name__}, beside which one stands"
            raise UserError(what, where=WHERE, hint="name the last layer of each block only")
        width = getattr(layer, "out_features", None) or layer.nf
        if wrong := network.why_not(width, width, model.config.get_text_config().hidden_size):
            raise UserError(f"{name}: {wrong[1]}", where=WHERE, hint=wrong[2])
        part = _drawn(width, network, seed, model.device)
        setattr(place, _NAME, part)
        if network.beside:
            place.register_forward_hook(part.beside, with_kwargs=True)
        else:
            place.register_forward_hook(part.behind)
        seed += 1
    model.peft_config = {ADAPTER: OwnConfig(network.model_dump(mode="json"), NETWORK)}


def read(model: Any, network: Network, folder: str) -> Any:
    """The model with what lies in a folder of ours. Raises KeyError and ValueError where that is of another model."""
    add(model, network, dropout=False, seed=0, fresh=False)
    kept = load_file(Path(folder) / ADAPTER_WEIGHTS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f".{name}".endswith(SUFFIXES):
                if kept[name].shape != parameter.shape:
                    raise ValueError(f"{name} is {list(kept[name].shape)}, not {list(parameter.shape)}")
                parameter.data = kept[name].to(device=model.device, dtype=model.dtype)
    return model


def _drawn(width: int, network: Network, seed: int, device: torch.device) -> SmallNetwork:
    with drawing(seed), drawn_on(device):
        return SmallNetwork(width, network).to(device)


KIND: Final = Kind(MARK, SUFFIXES)
