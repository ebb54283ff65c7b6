"""Liger's kernels in the layers of a model: norms, rotary positions and gated MLPs, each one kernel (Hsu et al. 2024).

Liger exchanges classes and functions of a family's whole Python module. Here only the model that is given gets them: a
generator of the same family decodes one token at a time, which is bound by launches, and a Triton kernel's launch
takes longer than torch's; and a role with ``kernels: none`` in the same process stays as it is.
"""

from __future__ import annotations

import importlib
import sys
from types import FunctionType, MethodType
from typing import Any

import torch

from distft.common.errors import UserError
from distft.planning.liger import LIGER_PACKAGE, liger_is_installed, why_no_liger

_ROPE = "apply_rotary_pos_emb"


def use_liger(module: Any, kernels: str, where: str) -> bool:
    """Gives a Hugging Face model Liger's layers where ``kernels`` (auto, liger, none) asks for them; whether it did.

    ``auto`` takes them where there is a GPU, the package is installed and the family is one of ``LIGER_FAMILIES``.
    Raises UserError where ``liger`` is asked for and cannot be had.
    """
    if kernels == "none":
        return False
    missing = why_no_liger(module.config.model_type, gpu=torch.cuda.is_available())
    if not missing and not liger_is_installed():
        missing = "the package liger-kernel is not installed (pip install liger-kernel)"
    if missing and kernels == "liger":
        raise UserError(missing, where=where, hint="kernels: auto takes Liger's where they can be had")
    if not missing:
        _exchange(module)
    return not missing


def _exchange(module: Any) -> None:
    """The instance's layers; what Liger changed beside them is put back."""
    modeling = sys.modules[type(module).__module__]
    before = dict(vars(modeling))
    patch = importlib.import_module(f"{LIGER_PACKAGE}.transformers")
    patch._apply_liger_kernel_to_instance(model=module, cross_entropy=False, fused_linear_cross_entropy=False)
    rope = getattr(modeling, _ROPE, None)
    for name, value in before.items():
        if getattr(modeling, name) is not value:
            setattr(modeling, name, value)
    if rope is not before.get(_ROPE):
        _turn_by(rope, module)


def _turn_by(rope: Any, module: Any) -> None:
    """Attention that turns its queries and keys by ``rope``: its own code, with another function under that name."""
    turned: dict[type, FunctionType] = {}
    for part in module.modules():
        forward = type(part).forward
        if isinstance(forward, FunctionType) and _ROPE in forward.__code__.co_names:
            if type(part) not in turned:
                known = {**forward.__globals__, _ROPE: rope}
                made = FunctionType(
                    forward.__code__, known, forward.__name__, forward.__defaults__, forward.__closure__
                )
                made.__kwdefaults__ = forward.__kwdefaults__
                turned[type(part)] = made
            part.forward = MethodType(turned[type(part)], part)
