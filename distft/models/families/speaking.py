"""What families have in common whose models give every token its likelihood, and so can write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from distft.models.families.family import Family, ModelInputs
from distft.models.selected import Reading
from distft.models.stops import stop_tokens


class Speaking(Family):
    """See ``Family``: outputs ``logprobs``, ``entropy``, ``logits_mean``."""

    main_output = "logprobs"
    stops = staticmethod(stop_tokens)

    def outputs(
        self, forward: Callable[..., Any], inputs: ModelInputs, wanted: Sequence[str], reads: str, temperature: float
    ) -> dict[str, Tensor]:
        """See ``Family``: of tokens, whatever ``reads`` says."""
        del reads
        reading = Reading(inputs.targets, tuple(wanted), temperature)
        found: dict[str, Tensor] = forward(**inputs.tensors, select=inputs.select, reading=reading)
        return found
