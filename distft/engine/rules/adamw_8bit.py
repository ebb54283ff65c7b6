"""AdamW whose moments rest in eight bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import bitsandbytes.functional as bitsandbytes
import torch
from torch import Tensor

from distft.config.optimizers.optimizer import BLOCK
from distft.engine.rules.one_by_one import OneByOne

# Elements of a call: bitsandbytes counts in 32 bits, and on a CPU holds both moments of them in float32.
CHUNK = 2**24
_MOMENTS = ("exp_avg", "exp_avg_sq")
Read = Callable[[int, Tensor], None]


class EightBitAdamW(OneByOne):
    """AdamW by bitsandbytes (Dettmers et al. 2022): of 256 neighbours a moment is a code of 8 bits times the largest.

    The numbers that codes stand for are theirs but for one, the lowest of the first moment: -1 in place of -0.993. So
    the largest of a block is its own code whatever its sign, codes and scales follow from the values, and files, which
    have those, need know of neither. Small tensors are in eight bits too: a shard does not know where they are.
    ``paged``: on a GPU the codes lie in memory that its driver moves to the host where room is short.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float, *, paged: bool
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._paged = paged
        dynamic: Any = bitsandbytes.create_dynamic_map
        signed, unsigned = dynamic(signed=True), dynamic(signed=False)
        signed[0] = -1.0
        self._codes: dict[str, Tensor] = dict(zip(_MOMENTS, (signed, unsigned), strict=True))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every weight that has a gradient."""
        super().step(closure)
        if self._paged and torch.cuda.is_available():
            torch.cuda.synchronize()  # before anybody else reads what is paged

    def update(self, group: dict[str, Any], weight: Tensor, gradient: Tensor) -> None:
        """One step of a weight by bitsandbytes, a run of elements at a time."""
        (beta1, beta2), eps, decay = group["betas"], group["eps"], group["weight_decay"]
        step = int(self.state[weight].setdefault("step", torch.zeros(())).add_(1))
        kept = [self._kept(weight, name) for name in _MOMENTS]
        codes = [self._codes_on(weight.device, name) for name in _MOMENTS]
        for first in range(0, weight.numel(), CHUNK):
            part, slope, *moments = (
                one.view(-1)[first : first + CHUNK] for one in (weight, gradient, *(c for c, _ in kept))
            )
            scales = [scale[first // BLOCK : (first + CHUNK) // BLOCK] for _, scale in kept]
            torch.ops.bitsandbytes.optimizer_update_8bit_blockwise(
                "adam", slope, part, *moments, beta1, beta2, 0.0, 0.0, eps, step, group["lr"],
                *codes, *scales, decay, 1.0, False,
            )  # fmt: skip

    def values(self, weight: Tensor, name: str, first: int, length: int) -> Tensor:
        """Some of a moment of a weight, flat, in float32."""
        (moment, scales), codes = self._kept(weight, name), self._codes_on(weight.device, name)
        found = torch.empty(length, device=weight.device)
        for begin in range(first, first + length, CHUNK):
            part = found[begin - first :][:CHUNK]
            blocks = torch.arange(begin, begin + len(part), device=weight.device) // BLOCK
            torch.mul(codes[moment.view(-1)[begin:][: len(part)].int()], scales[blocks], out=part)
        return found

    def fill(self, weight: Tensor, name: str, read: Read) -> None:
        """A moment of a weight from float32, of which ``read`` writes the run from an element on into a tensor."""
        (moment, scales), codes = self._kept(weight, name), self._codes_on(weight.device, name)
        between = (codes[1:] + codes[:-1]) / 2
        for first in range(0, moment.numel(), CHUNK):
            kept = moment.view(-1)[first : first + CHUNK]
            blocks = torch.zeros(-(-len(kept) // BLOCK), BLOCK, device=weight.device)
            read(first, blocks.view(-1)[: len(kept)])
            largest = blocks.abs().amax(dim=1)
            scales[first // BLOCK : first // BLOCK + len(largest)] = largest
            shares = blocks / largest.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)
            kept.copy_(torch.bucketize(shares, between, out_int32=True).view(-1)[: len(kept)])

    def _kept(self, weight: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """A moment's codes, as many as the weight has elements, and the scales of its blocks; new ones are zeros."""
        state: dict[str, Tensor] = self.state[weight]
        if name not in state:
            state[name] = self._room(weight)
            state[f"{name}_scale"] = torch.zeros(-(-weight.numel() // BLOCK), device=weight.device)
        return state[name], state[f"{name}_scale"]

    def _codes_on(self, device: torch.device, name: str) -> Tensor:
        self._codes[name] = self._codes[name].to(device)
        return self._codes[name]

    def _room(self, weight: Tensor) -> Tensor:
        if not (self._paged and weight.is_cuda):
            return torch.zeros_like(weight, dtype=torch.uint8)
        room: Any = bitsandbytes.get_paged(*weight.shape, dtype=torch.uint8, device=weight.device)  # type: ignore[no-untyped-call]
        return cast(Tensor, room.zero_())
