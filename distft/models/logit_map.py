"""What a model does between its backbone's last states and its logits, found out by asking it.

Beside the head's product it is a scale (Granite, Cohere) or a soft cap (Gemma), or something that nobody here knows.
The model's own forward pass is run with a backbone and a head that answer what they are told, so no table of
architectures can be out of date, and one that does anything else is seen to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distft.algorithms.linear_logprobs import LogitMap

_TOLERANCE = 1e-5
# What a model raises that asks its backbone or its head for more than they answer here.
CONFUSED = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


def find_logit_map(model: Any) -> LogitMap | None:
    """How logits follow from the products of the model's linear head; None where they do otherwise."""
    head, backbone = model.get_output_embeddings(), model.get_decoder()
    if type(head) is not nn.Linear or backbone is model:
        return None
    products = torch.tensor([-60.0, -7.0, -1.0, -0.01, 0.0, 0.25, 1.0, 3.0, 60.0]).reshape(1, -1, 1)
    states = torch.linspace(-2.0, 2.0, products.numel() * head.in_features).reshape(1, -1, head.in_features)
    states = states.to(head.weight.dtype)
    read: list[Tensor] = []

    def answer(hidden: Tensor) -> Tensor:
        read.append(hidden)
        return products.clone()

    try:
        with torch.no_grad(), answering(backbone, lambda *_, **__: Answer(states)), answering(head, answer):
            ids = torch.zeros(states.shape[:2], dtype=torch.int64)
            logits = model.forward(input_ids=ids, use_cache=False).logits
    except CONFUSED:
        return None
    if len(read) != 1 or not torch.equal(read[0], states) or logits.shape != products.shape:
        return None
    found = _fitted(products, logits.float(), getattr(model.config.get_text_config(), "final_logit_softcapping", None))
    fits = torch.allclose(found.into(products.clone()), logits.float(), rtol=_TOLERANCE, atol=_TOLERANCE)
    return found if fits else None


def _fitted(products: Tensor, logits: Tensor, cap: float | None) -> LogitMap:
    """The map of that cap through the point of product 1."""
    at_one = float(logits[products == 1.0])
    if cap and abs(at_one) < cap:
        at_one = cap * math.atanh(at_one / cap)
    scale = 1.0 if math.isclose(at_one, 1.0, rel_tol=_TOLERANCE) else at_one
    return LogitMap(scale, cap or None)


class Answer:
    """What a backbone returns, under any of the names that models have for it; of all else nothing."""

    def __init__(self, states: Tensor) -> None:
        self.last_hidden_state = states

    def __getattr__(self, _name: str) -> None:
        return None

    def __getitem__(self, _index: object) -> Tensor:
        return self.last_hidden_state


@contextmanager
def answering(part: nn.Module, answer: Callable[..., Any]) -> Iterator[None]:
    """While open, the part computes nothing but answers this."""
    own = part.__dict__.get("forward")
    part.__dict__["forward"] = answer
    try:
        yield
    finally:
        if own is None:
            del part.__dict__["forward"]
        else:
            part.__dict__["forward"] = own
