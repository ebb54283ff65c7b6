"""Texts made into something to be restored: what is read, and what is learned of it, drawn anew at every visit.

What is drawn for a text follows from a seed of its own: no rank, micro-batch or resume changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from distft.batches import Batch, Ragged
from distft.common.addresses import found_at

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distft.config.method import Method

Ids: TypeAlias = npt.NDArray[np.int64]


class Corruption(Protocol):
    """Built with a tokenizer, ``longest``, which is ``data.max_length``, and a method's settings. Raises UserError for
    a tokenizer or a length that it cannot be had with."""

    def __call__(self, ids: Ids, random: np.random.Generator) -> tuple[Ids, Ids, Ids]:
        """What is read of a text of two tokens or more, what is to be answered, and 1 for what of that is learned."""
        ...


def corruption_of(method: Method, tokenizer: PreTrainedTokenizerBase, longest: int) -> Corruption | None:
    """That of a method, None where it has none. Raises as building one does."""
    named = method.corruption()
    if named is None:
        return None
    address, settings = named
    found: Corruption = found_at(address)(tokenizer, longest=longest, **settings)
    return found


def corrupted(batch: Batch, corruption: Corruption, seeds: Sequence[int]) -> Batch:
    """A batch of texts (``response_ids``) with what is read of each, what is learned, and the mask. ``seeds``: of each
    text's draws."""
    texts = batch.ragged("response_ids")
    made = [
        corruption(texts[row].astype(np.int64), np.random.Generator(np.random.Philox(key=seed)))
        for row, seed in enumerate(seeds)
    ]
    columns: dict[str, Any] = {
        name: Ragged.of([one[at] for one in made], kind)
        for at, (name, kind) in enumerate(
            (("prompt_ids", np.int32), ("response_ids", np.int32), ("response_mask", np.uint8))
        )
    }
    return batch.with_columns(**columns)


def order(count: int, random: np.random.Generator) -> Ids:
    """The numbers below ``count`` in an order drawn from plain numbers, whose sequence no version of numpy changes."""
    return np.argsort(random.random(count), kind="stable").astype(np.int64)
