"""Learning rates by depth: the lower a layer, the less it moves."""

from __future__ import annotations

from torch import nn


def layer_ratios(module: nn.Module, decay: float) -> dict[str, float]:
    """The rate of every parameter, by name, as a share of the optimizer's (Clark et al. 2020; counted as Bao et al.
    2022 do, appendix H).

    ``decay`` to the power of 1 for the highest of L layers, of L for the lowest, of L + 1 for embeddings; what is above
    the layers, or beside them, has the rate itself. Encoder and decoder are counted each by itself, embeddings below
    the higher of the two.
    """
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    layers = {name: _layer(name) for name, _ in module.named_parameters(remove_duplicate=False)}
    heights: dict[str, int] = {}
    for stack, number in layers.values():
        heights[stack] = max(heights.get(stack, 0), number + 1)
    found = {}
    for name, parameter in module.named_parameters():
        stack, number = layers[name]
        if number >= 0:
            below = heights[stack] - number
        else:
            below = max(heights.values()) + 1 if id(parameter) in embeddings else 0
        found[name] = decay**below
    return found


def _layer(name: str) -> tuple[str, int]:
    """The stack that a parameter lies in, and the number of its layer there; -1 for one in no layer."""
    parts = name.split(".")
    at = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return ("", -1) if at is None else (".".join(parts[:at]), int(parts[at]))
