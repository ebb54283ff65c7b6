"""Which layer a weight lies in, by its name."""

from __future__ import annotations

from collections.abc import Iterable

from distft.config.adapters.virtual_tokens import OF_MODEL


def layer_of(name: str) -> tuple[str, int] | None:
    """The stack of layers that has the weight of that name, and the number of its layer there: the first number in it.
    None for one in no layer, as those are of an encoder that virtual tokens are computed by, whose parts have numbers
    too."""
    parts = name.split(".")
    at = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return None if at is None or OF_MODEL in parts else (".".join(parts[:at]), int(parts[at]))


def stack_heights(names: Iterable[str]) -> dict[str, int]:
    """How many layers every stack has in which one of the weights of those names lies."""
    heights: dict[str, int] = {}
    for name in names:
        if (place := layer_of(name)) is not None:
            stack, number = place
            heights[stack] = max(heights.get(stack, 0), number + 1)
    return heights
