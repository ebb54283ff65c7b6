"""The numbers of tokens: the same for all models that read the policy's tokens, and rows of an embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distft.common.errors import UserError, nearest

if TYPE_CHECKING:
    from distft.data.dataset import TokenizedDataset

_CURES = {
    "reference": "the reference must share the policy's tokenizer; by default it is the policy's start",
    "value": "the value model must share the policy's tokenizer; without a start of its own it begins as the reward "
    "model where that one's is the policy's, else as the policy",
}
_AT_ONCE = 1000  # units


def require_policys_tokens(role: str, theirs: Mapping[str, int], policys: Mapping[str, int], *, key: str) -> None:
    """Policy and ``role`` (reference or value, begun from ``models.<role>.<key>``) give the same numbers to the same
    tokens. Raises UserError: every log-probability or value would be of another text.
    """
    if theirs == policys:
        return
    different = min(token for token in {**policys, **theirs} if policys.get(token) != theirs.get(token))
    raise UserError(
        f"its tokenizer is not the policy's: {len(theirs)} tokens here, {len(policys)} there; "
        f"{different!r} is {theirs.get(different)} here and {policys.get(different)} there",
        where=f"models.{role}.{key}",
        hint=_CURES[role],
    )


def require_token(name: str, vocabulary: Mapping[str, int]) -> int:
    """The number of a stop token that the recipe names. Raises UserError."""
    if name not in vocabulary:
        close = nearest(name, vocabulary)
        hint = f"did you mean {close}?" if close else "name single tokens of the policy's tokenizer, such as <|im_end|>"
        raise UserError(f"{name!r} is no token of the policy's tokenizer", where="models.policy.stop_tokens", hint=hint)
    return vocabulary[name]


def require_known(dataset: TokenizedDataset, tokenizer: Any, rows: int, *, kind: str, model: str) -> None:
    """All ids of a data set (of a ``kind`` of algorithm) are rows of the embedding of ``model``, which has ``rows``.

    A tokenizer may have more tokens than that, as long as no text has them: Gemma-3's text models have one for images.
    Raises UserError naming the row and the token.
    """
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    for start in range(0, dataset.num_units if beyond else 0, _AT_ONCE):
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


def _largest(dataset: TokenizedDataset, units: Sequence[int], kind: str) -> int:
    batch = dataset.prompts(units) if kind == "ppo" else dataset.batch(units)
    columns = [name for name in ("prompt_ids", "response_ids") if name in batch]
    return max(int(batch.ragged(name).values.max(initial=0)) for name in columns)
