"""Adapters in a model: put there, switched off, told from its own weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from torch import nn

from distft.config.adapters.adapter import Adapter
from distft.config.adapters.ia3 import Ia3
from distft.config.adapters.lora import Lora
from distft.config.adapters.prompt import PromptTuning
from distft.config.adapters.selective import BitFit, Selective
from distft.models.adapters import ia3, lora, prompt, selective
from distft.models.adapters.layers import WRAPPED, scoring_heads

_ADD: Final[Mapping[type[Adapter], Callable[..., None]]] = {
    Lora: lora.add,
    Ia3: ia3.add,
    PromptTuning: prompt.add,
    BitFit: selective.add,
    Selective: selective.add,
}
KINDS_WITH_PARAMETERS: Final = (lora, ia3, prompt)
_SUFFIXES: Final = tuple(suffix for kind in KINDS_WITH_PARAMETERS for suffix in kind.SUFFIXES)


def add_adapters(model: Any, adapter: Adapter, *, dropout: bool, seed: int, fresh: bool = True) -> None:
    """Freezes the model, all but what the adapter trains, which begins as ``seed`` says. Not ``fresh``: what it begins
    as need not be worked out of the model's weights, it is given other values before it is read.

    A scoring head is trained whole: it is new, or small. Adapters have the model's dtype; their float32
    copies are the optimizer's. Raises UserError for layers or weights that the model does not have.
    """
    model.requires_grad_(requires_grad=False)
    dtype = model.dtype
    _ADD[type(adapter)](model, adapter, dropout=dropout, seed=seed, fresh=fresh)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(requires_grad=True)
    for head in scoring_heads(model):
        head.requires_grad_(requires_grad=True)


def adapted_parts(module: nn.Module) -> dict[str, Any]:
    """What holds an adapter's parameters, by name: layers that it lies beside, or virtual tokens."""
    marks = [kind.MARK for kind in KINDS_WITH_PARAMETERS]
    return {name: part for name, part in module.named_modules() if any(hasattr(part, mark) for mark in marks)}


def read_from_outside(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """Parts of adapters, with the parameters that their forward pass reads and that a sharded engine, which gathers a
    part's own before it, would not have gathered."""
    for part in adapted_parts(module).values():
        for kind in KINDS_WITH_PARAMETERS:
            if hasattr(part, kind.MARK):
                yield from kind.read_from_outside(part)


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """While open, the module computes what its frozen base computes; for forward passes without gradients only."""
    parts = list(adapted_parts(module).values())
    for part in parts:
        part.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for part in parts:
            part.enable_adapters(enabled=True)


def is_adapter(name: str) -> bool:
    """Whether the parameter of that name belongs to an adapter."""
    return f".{name}".endswith(_SUFFIXES)


def saved_name(name: str) -> str:
    """PEFT's name of a trained parameter in a file: of an adapter's as its kind says, else as the model it wraps."""
    for kind in KINDS_WITH_PARAMETERS:
        if f".{name}".endswith(kind.SUFFIXES):
            saved: str = kind.saved_name(name)
            return saved
    return f"{WRAPPED}.{name}"
