"""How far a policy has moved from its reference whatever the answer: seen at prompts with each other's answers.

An estimate of the KL divergence (Ethayarajh et al. 2024, section 4.1), of all answers of an optimizer step together,
so that it does not depend on how they are dealt out to ranks and micro-batches. numpy only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distft.batches import Batch, Ragged


def mismatched(answers: Batch, longest: int) -> Batch:
    """Every prompt with the answer of another row, cut to ``longest`` tokens in all; each answer is taken once.

    The answers move on by one row, as in TRL; by more where that gives fewer prompts an answer to the same prompt.
    """
    prompts, responses = answers.ragged("prompt_ids"), answers.ragged("response_ids")
    masks = answers.response_mask()
    others = (np.arange(len(answers)) - _shift(prompts)) % len(answers)
    taken, kept = [], []
    for row, other in enumerate(others.tolist()):
        room = longest - len(prompts[row])
        taken.append(responses[other][:room])
        mask = masks[other][:room].copy()
        if not len(prompts[row]):
            mask[:1] = 0  # nothing predicts the first token
        kept.append(mask)
    return Batch({
        "prompt_ids": prompts,
        "response_ids": Ragged.of(taken, np.int32),
        "response_mask": Ragged.of(kept, np.uint8),
        "sample": answers.dense("sample"),
        "unit": answers.dense("unit"),
    })  # fmt: skip


def kl_baseline(read: Batch) -> Batch:
    """Column ``baseline``: max(0, mean over the mismatched of log pi - log pi_ref, summed over the answer), in nats.

    ``read``: their ``logprobs`` and ``ref_logprobs``.
    """
    apart = read.ragged("logprobs").values.astype(np.float64) - read.ragged("ref_logprobs").values
    value = max(0.0, float(apart.sum() / len(read)))
    return Batch({"sample": read.dense("sample"), "baseline": np.full(len(read), value, np.float32)})


def _shift(prompts: Ragged) -> int:
    """By how many rows answers move on: the least of those with the fewest that answer the same prompt again."""
    known: dict[bytes, int] = {}
    numbers: npt.NDArray[np.int64] = np.array(
        [known.setdefault(prompts[row].tobytes(), len(known)) for row in range(len(prompts))], np.int64
    )
    best, fewest = 0, len(prompts) + 1
    for shift in range(1, len(prompts)):
        same = int((numbers == np.roll(numbers, shift)).sum())
        if same < fewest:
            best, fewest = shift, same
        if not fewest:
            break
    return best
