"""Do the ids of a data set fit a model's embedding?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distft.batches import Array
from distft.common.errors import UserError
from distft.config.find_method import traits_of
from distft.data.tokenized import TokenizedDataset

_AT_ONCE = 1000  # units


def require_known(dataset: TokenizedDataset, tokenizer: Any, rows: int, *, kind: str, model: str) -> None:
    """All ids of a data set (of a ``kind`` of algorithm) are rows of the embedding of ``model``, which has ``rows``.

    A tokenizer may have more tokens than that, as long as no text has them: Gemma-3's text models have one for images.
    Raises UserError naming the row and the token.
    """
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    if not beyond or dataset.largest_id < rows:
        return
    for start in range(0, dataset.num_units, _AT_ONCE):
        units = range(start, min(start + _AT_ONCE, dataset.num_units))
        if _largest(dataset, units, kind) < rows:
            continue
        unit = next(unit for unit in units if _largest(dataset, [unit], kind) >= rows)
        number = _largest(dataset, [unit], kind)
        raise UserError(
            f"the token {beyond[number]} has the number {number}, the model's embedding has {rows} rows",
            where=dataset.rows([unit])[0].where,
            hint=f"the tokenizer in {model} was given tokens and the model no room for them: make it with "
            "model.resize_token_embeddings(len(tokenizer)), and save both",
        )


def ids_of(dataset: TokenizedDataset, units: Sequence[int], kind: str) -> Array:
    """All ids of those units, as a ``kind`` of algorithm reads them: their prompts, or all of their sequences."""
    batch = dataset.prompts(units) if traits_of(kind).sampled else dataset.batch(units)
    found: Array = np.concatenate([
        batch.ragged(name).values for name in ("prompt_ids", "response_ids") if name in batch
    ])  # fmt: skip
    return found


def _largest(dataset: TokenizedDataset, units: Sequence[int], kind: str) -> int:
    return int(ids_of(dataset, units, kind).max(initial=0))
