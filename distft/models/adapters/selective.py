"""Some of a model's own weights are trained: nothing is put into it."""

from __future__ import annotations

from typing import Any, Final

from distft.common.errors import UserError
from distft.config.adapters.selective import BitFit, OwnWeights

_WITHOUT_BIASES: Final = "peft: {method: ia3} trains about as few numbers and needs no biases; or "


def add(model: Any, own: OwnWeights, *, dropout: bool, seed: int, fresh: bool) -> None:  # noqa: ARG001 - none drawn
    """Weights of those names have gradients. Raises UserError where there is none."""
    chosen = [parameter for name, parameter in model.named_parameters() if own.chooses(name)]
    if not chosen:
        kinds = dict.fromkeys(".".join("*" if part.isdigit() else part for part in name.split("."))
                              for name, _ in model.named_parameters())  # fmt: skip
        way_out = _WITHOUT_BIASES if isinstance(own, BitFit) else ""
        raise UserError(
            f"{type(model).__name__} has no weight that is called {' or '.join(own.train)}",
            where="peft.train",
            hint=f"{way_out}it has, for example: {', '.join(list(kinds)[:8])}",
        )
    for parameter in chosen:
        parameter.requires_grad_(requires_grad=True)
