"""Stage 0, where nothing is sharded: what DeepSpeed 0.19 leaves open there, closed.

Read in its source and seen in runs:

- float32: the optimizer is ours, bare. No norm is reported and nothing looks at the gradients before the
  step, so that a NaN on one rank ends in the weights of all.
- bfloat16, float16 (``FP16_UnfusedOptimizer``): the constructor takes a step on zero gradients to
  allocate the state. Adam counts it, decays the float32 weights by it, and every later bias correction
  is one step ahead: the first real update comes out at 0.74 of its size.
- float16: ``step`` divides by the loss scale of the next step, and ``backward`` multiplies by it at stages 1 to 3 only.
- Both: the norm, and with it the clipping, is taken of gradients rounded to the model's precision (4e-4 off in
  bfloat16). So norm and clipping are ours at every precision, of the float32 sums.
- Both: its step goes over the gradients five times more: for infinities a parameter at a time, each waited for, for a
  norm of its own, to scale them by one, and to set them free. Here one pass finds the norm, and only a norm above the
  limit needs another.
- The reduction ignores ``reduce_bucket_size`` and copies up to 5e8 elements at once, also where there is nobody to
  reduce with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from distft.engine.dropped import scale_kept

# What torch adds to a norm before it divides by it.
_CLIP_EPS = 1e-6


class ReplicatedStep:
    """Gradients of whole replicas to one checked, clipped optimizer step (collective)."""

    def __init__(self, engine: Any, *, low_precision: bool, max_grad_norm: float, bucket_size: int) -> None:
        self._engine, self._low_precision = engine, low_precision
        self._max_grad_norm, self._bucket_size = max_grad_norm, bucket_size
        self._overflow = False
        self.before_step: Callable[[], None] | None = None  # with the gradients that it is taken with
        # The reduction is ours, once a step: DeepSpeed would add a second one in front of its own step.
        engine.enable_backward_allreduce = False
        if low_precision:
            engine.optimizer.optimizer.state.clear()
            engine.optimizer.refresh_fp32_params()
            engine.optimizer.step = self._low_precision_step  # which the engine's own step calls

    @property
    def loss_scale(self) -> float:
        """What the loss has to be multiplied with before its backward pass."""
        return float(self._engine.optimizer.loss_scale) if self._low_precision else 1.0

    def step(self) -> float:
        """Returns the gradient norm over all ranks before clipping; where it is not finite, no step is taken."""
        parameters = [parameter for parameter in self._engine.module.parameters() if parameter.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:  # DeepSpeed's zeros have the wrong precision
                parameter.grad = torch.zeros_like(parameter, dtype=parameter.grad_dtype)
        if dist.get_world_size() > 1:
            self._engine.buffered_allreduce_fallback(elements_per_buffer=self._bucket_size)
        norm = float(torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])) / self.loss_scale
        if norm < float("inf"):
            self._overflow = False
            if norm + _CLIP_EPS > self._max_grad_norm:
                torch.nn.utils.clip_grads_with_norm_(parameters, self._max_grad_norm, torch.tensor(norm))
            if self.before_step is not None:
                self.before_step()
            self._engine.step()
        else:
            self._take_none()
        return norm

    def drop(self) -> None:
        """Throws the gradients away, whatever they are."""
        with scale_kept(self._engine.optimizer):
            self._take_none()

    def _take_none(self) -> None:
        self._overflow = True
        if self._low_precision:
            self._engine.step()  # clears the gradients, and lowers float16's loss scale
        else:
            self._engine.zero_grad()

    def _low_precision_step(self) -> None:
        """From gradients in float32 to the weights, by way of their float32 copies."""
        optimizer = self._engine.optimizer
        optimizer.overflow = self._overflow
        if self._overflow:
            optimizer._skip_invalid_grad_norm()
            return
        weights = [weight for group in optimizer.fp16_groups for weight in group]
        masters = [master for group in optimizer.fp32_groups for master in group]
        for master, weight in zip(masters, weights, strict=True):
            master.grad, weight.grad = weight.grad, None
        if self.loss_scale != 1.0:
            torch._foreach_mul_([master.grad for master in masters], 1.0 / self.loss_scale)
        optimizer.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(weights, masters)
        for master in masters:
            master.grad = None
        optimizer._update_scale(False)
