"""What families have in common whose models give every token its likelihood, and so can write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from distft.models.families.family import Family, ModelInputs
from distft.models.selected import Reading
from distft.models.stops import stop_tokens


class Speaking(Family):
    """See ``Family``: outputs ``logprobs``, ``entropy``, ``logits_mean``, and what a measure answers."""

    main_output = "logprobs"
    stops = staticmethod(stop_tokens)

    def outputs(
        self, forward: Callable[..., Any], inputs: ModelInputs, wanted: Sequence[str], reads: str, temperature: float
    ) -> dict[str, Tensor]:
        """See ``Family``: of tokens, whatever ``reads`` says."""
        del reads
        measure = inputs.measure
        plain = wanted if measure is None else [name for name in wanted if name not in measure.names]
        reading = Reading(inputs.targets, tuple(plain), temperature, measure)
        found: dict[str, Tensor] = forward(**inputs.tensors, select=inputs.select, reading=reading)
        return found
