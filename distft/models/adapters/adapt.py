"""Adapters in a model: put there, switched off, told from its own weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from torch import Tensor, nn

from distft.config.adapters.adalora import AdaLora
from distft.config.adapters.adapter import Adapter
from distft.config.adapters.bottleneck import Bottleneck, Parallel
from distft.config.adapters.diff_pruning import DiffPruning
from distft.config.adapters.ia3 import Ia3
from distft.config.adapters.lora import Lora
from distft.config.adapters.p_tuning import PTuning
from distft.config.adapters.prefix import PrefixTuning
from distft.config.adapters.prompt import PromptTuning
from distft.config.adapters.selective import BitFit, Selective
from distft.models.adapters import (
    adalora,
    bottleneck,
    diff_pruning,
    ia3,
    lora,
    lora_starts,
    prefix,
    prompt,
    selective,
    virtual_tokens,
)
from distft.models.adapters.layers import WRAPPED, scoring_heads

_ADD: Final[Mapping[type[Adapter], Callable[..., None]]] = {
    Lora: lora.add,
    AdaLora: adalora.add,
    Ia3: ia3.add,
    PromptTuning: prompt.add,
    PTuning: prompt.add_encoded,
    PrefixTuning: prefix.add,
    Bottleneck: bottleneck.add,
    Parallel: bottleneck.add,
    DiffPruning: diff_pruning.add,
    BitFit: selective.add,
    Selective: selective.add,
}
# Of those that add parameters. AdaLoRA's layers have LoRA's mark too, and come first.
KINDS: Final = (adalora.KIND, lora.KIND, ia3.KIND, virtual_tokens.KIND, bottleneck.KIND, diff_pruning.KIND)
_SUFFIXES: Final = tuple(suffix for kind in KINDS for suffix in kind.suffixes)


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
    marks = [kind.mark for kind in KINDS]
    return {name: part for name, part in module.named_modules() if any(hasattr(part, mark) for mark in marks)}


def read_from_outside(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """Parts of adapters, with the parameters that their forward pass reads and that a sharded engine, which gathers a
    part's own before it, would not have gathered."""
    for part in adapted_parts(module).values():
        for kind in KINDS:
            if hasattr(part, kind.mark):
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


def in_files(model: Any, config: Any, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is trained, by PEFT's names in a file, as PEFT reads it over the untouched model. ``config``, PEFT's, is
    told where that is another kind than the one that was trained."""
    found = virtual_tokens.in_files(model, lora_starts.over_whole_weights(model, config, trained))
    found = diff_pruning.in_files(model, found)
    return {saved_name(name): tensor for name, tensor in found.items()}


def saved_name(name: str) -> str:
    """PEFT's name of a trained parameter in a file: of an adapter's as its kind says, else as the model it wraps."""
    for kind in KINDS:
        if f".{name}".endswith(kind.suffixes):
            return kind.saved_name(name)
    return f"{WRAPPED}.{name}"
