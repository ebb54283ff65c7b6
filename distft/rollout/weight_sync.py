"""The trainer's weights into a generator, a bucket of gathered tensors at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

PREFIX = "model."  # the trainer's modules wrap the Hugging Face model under this name


def copy_weights(tensors: Iterable[tuple[str, Tensor]], targets: Mapping[str, Tensor]) -> int:
    """Copies every named tensor into the twin's parameter of that name; returns the bytes copied.

    ``targets`` are the twin's parameters that are to be renewed: all, or those that are trained. Raises KeyError
    for a tensor that is none of them, and ValueError for another shape or when one of them was not sent: a
    generator that keeps one stale layer produces text that looks right.
    """
    missing = set(targets)
    copied = 0
    with torch.no_grad():
        for name, tensor in tensors:
            key = name.removeprefix(PREFIX)
            if targets[key].shape != tensor.shape:  # copy_ would broadcast
                raise ValueError(f"weight sync: {key} is {tuple(tensor.shape)}, not {tuple(targets[key].shape)}")
            targets[key].copy_(tensor)
            missing.discard(key)
            copied += tensor.numel() * tensor.element_size()
    if missing:
        raise ValueError(f"weight sync left out {', '.join(sorted(missing)[:5])}")
    return copied
