"""Pairs to what DPO trains on: the reference's log-probs beside them."""

from __future__ import annotations

from distft.clients.model_group import ModelGroup
from distft.clients.samples import Samples
from distft.experience.passes import forward_pass
from distft.groups.handles import Call, DataRef


def reference_pass(reference: ModelGroup, samples: Samples, max_tokens: int) -> Call[DataRef]:
    """The frozen reference's log-probs of every response token, as column ``ref_logprobs``."""
    return forward_pass(reference, samples, "ref_logprobs", max_tokens)
