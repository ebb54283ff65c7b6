"""The worse answers of held-out pairs, where only the better ones are imitated: how likely they become is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from distft.batches import Batch
from distft.config.recipe import Recipe
from distft.data.bad_rows import BadRow
from distft.data.encode import Encoded, Encoder
from distft.data.formats import CompletionExample, Example, PreferenceExample
from distft.workers.asked_rows import answer_batch


def rejected_answers(examples: Sequence[Example], encoder: Encoder, recipe: Recipe) -> Batch:
    """Of those rows that are pairs the rejected answers, with the tokens to be predicted that their chosen ones have;
    there may be none. Passed over are those that the chat template refuses, or of which ``data.max_length`` leaves
    nothing."""
    return answer_batch(list(_encoded(examples, encoder, recipe)))


def _encoded(examples: Sequence[Example], encoder: Encoder, recipe: Recipe) -> Iterator[Encoded]:
    for one in examples:
        if not isinstance(one, PreferenceExample):
            continue
        other = CompletionExample(one.prompt, one.rejected, where=one.where)
        try:
            encoded = encoder.supervised(other, recipe.algorithm.learned_tokens())
        except BadRow:
            continue
        encoded = encoder.cut(encoded, recipe.data, sampled=False)
        if encoded.trains:
            yield encoded
