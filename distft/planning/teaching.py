"""What it takes to carry a teacher's distributions to the policy: bytes of one rank of either. Pure arithmetic."""

from __future__ import annotations

from distft.config.method import Telling
from distft.planning.memory import BYTES, Item
from distft.planning.model_sizes import ModelSizes

# Elements of a chunk in which distributions are compared (algorithms.measured), CPU and GPU, and how many float32
# tensors of that size there are at once while a divergence is differentiated.
CHUNK_CPU = 2**20
CHUNK_GPU = 2**24
CHUNKS_AT_ONCE = 6


def teacher_items(telling: Telling, vocab: int, step_tokens: int, judged_tokens: int, micro_tokens: int) -> list[Item]:
    """Of the teacher: what it tells of a rank's share of a step, ``step_tokens``, waits in Ray's store until the update
    has read it, while that of the next step is made (in the rank's own memory, and then in the store). Of the rows that
    judge, ``judged_tokens``, it tells all at once."""
    of_token, most = telling.bytes_of(vocab), max(step_tokens, judged_tokens)
    return [
        Item("distributions of a step", most * of_token, place="host"),
        Item("distributions of the next step", (step_tokens + most) * of_token, "forward", "host"),
        Item("distributions of a micro-batch", micro_tokens * of_token, "forward"),
    ]


def student_items(
    telling: Telling, sizes: ModelSizes, most_tokens: int, micro_tokens: int, *, dtype: str, gpu: bool
) -> list[Item]:
    """Of the policy: the rows of a step, or all that judge, put together on the host, those of a micro-batch on the
    device (numbers of tokens in 8 bytes there), a chunk of logits as it is compared, and the head's gradient, summed in
    float32."""
    of_token = telling.bytes_of(sizes.vocab)
    named = 0 if telling.top_k is None else 4 * min(telling.top_k, sizes.vocab)
    chunk = min(micro_tokens * sizes.vocab, CHUNK_GPU if gpu else CHUNK_CPU)
    head = 4 * sizes.vocab * sizes.hidden if BYTES[dtype] < 4 else 0
    return [
        Item("teacher's distributions", most_tokens * of_token, "training", "host"),
        Item("teacher's distributions of a micro-batch", micro_tokens * (of_token + named), "training"),
        Item("distributions compared", CHUNKS_AT_ONCE * 4 * chunk, "training"),
        Item("head's gradient in float32", head, "training"),
    ]
