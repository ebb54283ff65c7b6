"""A step that is not taken although its gradients may be numbers: they are thrown away, and nothing else changes.

DeepSpeed has no call for it. What it has is the way that it goes where it finds an overflow, of which each stage's
optimizer asks another method of its own; here that one answers yes. float16's scale, which is lowered there, stays:
the gradients were not too large for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def overflowing(optimizer: Any, zero_stage: int) -> Iterator[None]:
    """While open, a step of DeepSpeed's ``optimizer`` of a sharded engine clears the gradients and does no more."""

    def found(*_: Any, **__: Any) -> bool:
        optimizer.overflow = True
        return True

    asked = "_overflow_check_and_loss_scale_update" if zero_stage == 3 else "check_overflow"
    replaced = {asked: found, "check_grad_overflow": True}
    with scale_kept(optimizer), _with(optimizer, replaced):
        yield


@contextmanager
def scale_kept(optimizer: Any) -> Iterator[None]:
    """While open, the scale of float16's loss stays as it is."""
    with _with(optimizer, {"_update_scale": lambda *_: None}):
        yield


@contextmanager
def _with(optimizer: Any, replaced: dict[str, Any]) -> Iterator[None]:
    own = {name: vars(optimizer)[name] for name in replaced if name in vars(optimizer)}
    vars(optimizer).update(replaced)
    try:
        yield
    finally:
        for name in replaced:
            del vars(optimizer)[name]
        vars(optimizer).update(own)
