"""The routers of a mixture of experts: what they choose is recorded, and chosen again when it is replayed.

A generator and a trainer that compute alike but not equally, or with weights of two versions, send some tokens to other
experts, and then the log-probabilities that a policy gradient compares are of other networks. Ma et al. 2025
("Stabilizing MoE Reinforcement Learning by Aligning Training and Inference Routers", arXiv 2510.11370) record which
experts the generator chose, and have the trainer choose these. Only the choice is replayed: the weights of the chosen
experts come from the trainer's own logits, so that its router learns.

No architecture is named here. transformers says which modules of a model its router logits come from; one that has
``num_experts`` and ``top_k``, and chooses by one ``torch.topk`` of so many of all, can be recorded. The result of that
call is exchanged, and what the router makes of its values (a sum to divide by, a softmax, a scale) stays its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from distft.batches import Ragged
from distft.common.errors import UserError


class Routers:
    """All routers of a model, in the order of its layers: of each token ``width`` numbers of experts, ``top_k`` of
    every layer one after the other. ``dtype``: of numpy, one that holds the number of any expert."""

    def __init__(self, model: Any, where: str) -> None:
        """Raises UserError where ``model`` has none, or such as cannot be replayed."""
        modules = _declared(model)
        if not modules:
            raise UserError(
                f"{type(model).__name__} has no routers that could be replayed: it is no mixture of experts",
                where=where, hint="rollout.router_replay=false",
            )  # fmt: skip
        for router in modules:
            if not all(isinstance(getattr(router, name, None), int) for name in ("top_k", "num_experts")):
                raise UserError(_unknown(router), where=where, hint="rollout.router_replay=false")
        few = all(router.num_experts <= 256 for router in modules)
        self.dtype = np.dtype("uint8" if few else "int16")
        self._layers = [_Router(router, torch.uint8 if few else torch.int16, where) for router in modules]
        self.width = sum(layer.top_k for layer in self._layers)

    @contextmanager
    def recording(self) -> Iterator[Recorded]:
        """While open, every forward pass is recorded."""
        for layer in self._layers:
            layer.seen = []
        recorded = Recorded(self)
        try:
            yield recorded
        finally:
            for layer in self._layers:
                layer.seen = None

    @contextmanager
    def replaying(self, experts: Tensor, known: Tensor) -> Iterator[None]:
        """While open, every forward pass is one over the same tokens, flat, and so is what a backward pass computes
        anew: ``experts`` int64 ``[num_tokens, width]``; of a token that is not ``known`` (bool ``[num_tokens]``) the
        routers choose."""
        of_layers = torch.split(experts, [layer.top_k for layer in self._layers], dim=1)
        for layer, given in zip(self._layers, of_layers, strict=True):
            layer.given = given, known
        try:
            yield
        finally:
            for layer in self._layers:
                layer.given = None

    def changed(self) -> Tensor:
        """Of the last pass that was replayed: in which share of the layers a token, ``[num_tokens]`` float64, would
        have gone to other experts."""
        found = [layer.changed for layer in self._layers]
        assert all(one is not None for one in found), "nothing was replayed"
        return torch.stack([one.double() for one in found if one is not None]).mean(0)

    def taken(self, rows: int) -> Tensor:
        """All that has been recorded: ``[rows, tokens, width]``."""
        return torch.cat([layer.taken(rows) for layer in self._layers], dim=2)


class Recorded:
    """What was recorded while ``recording`` is open."""

    def __init__(self, routers: Routers) -> None:
        self._routers = routers

    def rows(self, starts: Iterable[int], ends: Iterable[int]) -> Ragged:
        """Of each row of the batch the experts of its tokens from ``starts`` to ``ends``, ``[tokens, width]``."""
        places = list(zip(starts, ends, strict=True))
        whole = self._routers.taken(len(places)).cpu().numpy()
        return Ragged.of([whole[row, start:end] for row, (start, end) in enumerate(places)], self._routers.dtype)


class _Router:
    """One of them. ``seen``: what it has chosen, where that is recorded; ``given``: what it must choose, and for which
    tokens."""

    def __init__(self, module: Any, dtype: torch.dtype, where: str) -> None:
        self.top_k, self.num_experts = int(module.top_k), int(module.num_experts)
        self._dtype = dtype
        self.seen: list[Tensor] | None = None
        self.given: tuple[Tensor, Tensor] | None = None
        self.changed: Tensor | None = None
        self._unknown, self._where = _unknown(module), where
        self._forward: Callable[..., Any] = module.forward
        module.forward = self._watched

    def taken(self, rows: int) -> Tensor:
        """``[rows, tokens, top_k]`` of all passes."""
        assert self.seen is not None, "what was recorded is taken while it is"
        return torch.cat([one.reshape(rows, -1, self.top_k) for one in self.seen], dim=1)

    def choose(self, scores: Tensor, own: Any) -> Any:
        """In the place of ``own``, the router's values and numbers ``[num_tokens, top_k]`` out of ``scores``."""
        if self.seen is not None:
            self.seen.append(own.indices.to(self._dtype))
        if self.given is None:
            return own
        given, known = self.given
        chosen = torch.where(known[:, None], given, own.indices)
        self.changed = (chosen.sort(dim=1).values != own.indices.sort(dim=1).values).any(dim=1)
        return torch.return_types.topk((scores.gather(1, chosen), chosen))

    def _watched(self, *args: Any, **kwargs: Any) -> Any:
        if self.seen is None and self.given is None:
            return self._forward(*args, **kwargs)
        with _Choosing(self) as choosing:
            found = self._forward(*args, **kwargs)
        if choosing.count != 1:
            raise UserError(self._unknown, where=self._where, hint="rollout.router_replay=false")
        return found


class _Choosing(TorchFunctionMode):
    """Finds, in a router's forward, the call that chooses."""

    def __init__(self, router: _Router) -> None:
        super().__init__()
        self._router, self.count = router, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if func not in (torch.topk, Tensor.topk) or not self._chooses(found):
            return found
        scores = args[0] if args else kwargs["input"]
        if scores.shape[-1] != self._router.num_experts:
            return found
        self.count += 1
        return self._router.choose(scores, found)

    def _chooses(self, found: Any) -> bool:
        shape: tuple[int, ...] = found.indices.shape
        return len(shape) == 2 and shape[1] == self._router.top_k


def _declared(model: Any) -> list[Any]:
    """The modules that transformers reads router logits from, see ``PreTrainedModel._can_record_outputs``."""
    kinds = set()
    for part in model.modules():
        said = getattr(part, "_can_record_outputs", None)
        told = said.get("router_logits") if isinstance(said, dict) else None
        for one in told if isinstance(told, list) else [told]:
            kinds.add(getattr(one, "target_class", one))
    return [part for part in model.modules() if type(part) in kinds]


def _unknown(router: Any) -> str:
    return f"{type(router).__name__} does not choose its experts by one topk of all, so they cannot be replayed"
