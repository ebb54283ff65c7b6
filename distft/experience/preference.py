"""Given answers to what the policy trains on: what frozen models say of them, the reference's log-probs or a teacher's
distributions; and a baseline for those that measure against one.

    answers ── data worker: each prompt with another row's answer ─► mismatched
                                    together: policy logprobs | reference ref_logprobs
    answers ◄── data worker: baseline, one number of the whole step ◄──┘
"""

from __future__ import annotations

from collections.abc import Mapping

from distft.clients.data_group import DataGroup
from distft.clients.model_group import ModelGroup
from distft.clients.samples import Samples
from distft.config.method import Method
from distft.experience.passes import distributions_pass, forward_pass
from distft.groups.handles import Call, DataRef, together


def frozen_passes(
    groups: Mapping[str, ModelGroup], algorithm: Method, samples: Samples, max_tokens: int
) -> list[Call[DataRef]]:
    """What each frozen model of the method says of the samples, not started yet; none where it has none."""
    calls = []
    if "reference" in groups:
        calls.append(reference_pass(groups["reference"], samples, max_tokens))
    if "teacher" in groups:
        telling = algorithm.telling()
        assert telling is not None, f"{algorithm.name} has a teacher and does not say what it tells"
        calls.append(distributions_pass(groups["teacher"], samples, telling, max_tokens))
    return calls


def reference_pass(reference: ModelGroup, samples: Samples, max_tokens: int) -> Call[DataRef]:
    """The frozen reference's log-probs of every response token, as column ``ref_logprobs``."""
    return forward_pass(reference, samples, "ref_logprobs", max_tokens)


def with_baseline(
    samples: Samples, groups: Mapping[str, ModelGroup], data: DataGroup, longest: int, max_tokens: int
) -> Samples:
    """The answers of a step with column ``baseline``, by the policy as it is now; see ``workers.kl_baseline``.

    ``longest``: tokens of a prompt and an answer at most.
    """
    mismatched = data.mismatched(samples, longest).result()
    policy, reference = groups["policy"], groups["reference"]
    read = together(
        forward_pass(policy, mismatched, "logprobs", max_tokens), reference_pass(reference, mismatched, max_tokens)
    )
    return samples.with_data(data.kl_baseline(read).result())
