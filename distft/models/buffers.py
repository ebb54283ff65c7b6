"""Buffers that belong to a model's weights, such as the load-balancing bias of DeepSeek's routers.

Nothing trains them and ZeRO does not shard them, but without them a model computes something else.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def kept_buffers(model: Any) -> dict[str, Tensor]:
    """The buffers that belong into a file, by name; not those that follow from the config (rotary frequencies)."""
    buffers = dict(model.named_buffers())
    return {name: buffers[name] for name in model.state_dict() if name in buffers}


def give_kept_buffers(model: Any, twin: Any) -> None:
    """Makes those of ``twin``, an unsharded model of the same architecture, equal to those of ``model``."""
    for name, buffer in kept_buffers(model).items():
        owner, _, leaf = name.rpartition(".")
        setattr(twin.get_submodule(owner), leaf, buffer.detach().clone())
