"""Which layer a weight lies in, by its name."""

from __future__ import annotations

from distft.config.adapters.virtual_tokens import OF_MODEL


def layer_of(name: str) -> tuple[str, int] | None:
    """The stack of layers that has the weight of that name, and the number of its layer there: the first number in it.
    None for one in no layer, as those are of an encoder that virtual tokens are computed by, whose parts have numbers
    too."""
    parts = name.split(".")
    at = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return None if at is None or OF_MODEL in parts else (".".join(parts[:at]), int(parts[at]))
