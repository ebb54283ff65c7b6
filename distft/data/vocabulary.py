"""The numbers of tokens: the same for all models that read the policy's."""

from __future__ import annotations

from collections.abc import Mapping

from distft.common.errors import UserError, nearest
from distft.config.role_table import ROLE_FACTS


def require_policys_tokens(role: str, theirs: Mapping[str, int], policys: Mapping[str, int], *, key: str) -> None:
    """Policy and ``role`` (one of ``SAME_TOKENS``, begun from ``models.<role>.<key>``) give the same numbers to
    the same tokens. Raises UserError: every log-probability or value would be of another text.
    """
    if theirs == policys:
        return
    different = min(token for token in {**policys, **theirs} if policys.get(token) != theirs.get(token))
    raise UserError(
        f"its tokenizer is not the policy's: {len(theirs)} tokens here, {len(policys)} there; "
        f"{different!r} is {theirs.get(different)} here and {policys.get(different)} there",
        where=f"models.{role}.{key}",
        hint=ROLE_FACTS[role].same_tokens,
    )


def require_rows(role: str, num_tokens: int, rows: int | None, *, own_tokens: int | None = None) -> None:
    """The head of a model whose distributions are compared has a row for each token of the policy. ``own_tokens``: how
    many its own tokenizer has, where the policy's was given new ones by the recipe. Raises UserError."""
    if rows is not None and rows < num_tokens:
        if own_tokens is not None and own_tokens <= rows:
            raise UserError(
                f"with them the policy's tokenizer has {num_tokens} tokens, the {role}'s head only {rows} rows",
                where="models.policy.extend_vocabulary",
                hint=f"remove models.policy.extend_vocabulary, or give a {role} with the same tokens",
            )
        raise UserError(
            f"its tokenizer has {num_tokens} tokens, the model's head only {rows} rows: some can be neither told nor "
            "learned",
            where=f"models.{role}.path",
            hint="a model whose head was grown with its tokenizer (resize_token_embeddings), saved again",
        )


def require_token(name: str, vocabulary: Mapping[str, int]) -> int:
    """The number of a stop token that the recipe names. Raises UserError."""
    if name not in vocabulary:
        close = nearest(name, vocabulary)
        hint = f"did you mean {close}?" if close else "name single tokens of the policy's tokenizer, such as <|im_end|>"
        raise UserError(f"{name!r} is no token of the policy's tokenizer", where="models.policy.stop_tokens", hint=hint)
    return vocabulary[name]
