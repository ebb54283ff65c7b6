"""Pairs to what DPO trains on: the reference's log-probs beside them."""

from __future__ import annotations

from distft.experience.passes import Samples, forward_pass
from distft.groups.handles import Group


def with_reference(samples: Samples, reference: Group, max_tokens: int) -> Samples:
    """Adds ``ref_logprobs``: per response token, by the frozen reference."""
    result = forward_pass(reference, samples, "ref_logprobs", max_tokens).result()
    assert result.data is not None
    return samples.with_data(result.data)
