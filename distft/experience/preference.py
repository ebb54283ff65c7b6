"""Pairs to what DPO trains on: the reference's log-probs beside them."""

from __future__ import annotations

from collections.abc import Sequence

from distft.experience.passes import Samples, forward_pass
from distft.groups.handles import Call, Group, Result


def reference_pass(reference: Group, samples: Samples, max_tokens: int) -> Call:
    """The frozen reference's log-probs of every response token, as column ``ref_logprobs``."""
    return forward_pass(reference, samples, "ref_logprobs", max_tokens)


def with_results(samples: Samples, results: Sequence[Result]) -> Samples:
    """The samples with the columns that passes over them brought."""
    return samples.with_data(*(result.data for result in results if result.data is not None))
