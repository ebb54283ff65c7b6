"""What became of a recipe's rows, token by token: what is trained, where answers end, how long they are, what
repeats."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from distft.batches import Batch
from distft.data.sides import sides
from distft.data.token_counts import spread_units
from distft.data.tokenized import TokenizedDataset
from distft.data.turn_end import plain_end, turn_end
from distft.data.xray_result import Counts, Lengths, ListXRay, ShownSequence, Token

NUM_BARS: Final = 24
_AT_ONCE = 256
_QUANTILES: Final = (0.5, 0.9, 0.99, 1.0)


def xray(
    name: str, dataset: TokenizedDataset, learned: Callable[[Sequence[int]], Batch] | None, tokenizer: Any,
    stops: Collection[int], *, num_shown: int, new_tokens: Mapping[str, int] | None = None,
) -> ListXRay:  # fmt: skip
    """Looks into a list, and shows its first ``num_shown`` units token by token. ``learned``: units as they are learned
    from; None: they are prompts alone. ``stops`` end an answer. ``new_tokens``: how often those that the recipe adds
    occur. The lengths are those of all units, the counts of ``spread_units``."""
    answered = learned is not None
    batch_of = dataset.prompts if learned is None else learned
    return ListXRay(
        name=name,
        statistics=str(dataset.statistics),
        num_units=dataset.num_units,
        answered=answered,
        ended=bool(stops),
        counts=_counts(dataset.num_units, batch_of, stops),
        lengths=_lengths(dataset.lengths),
        new_tokens=dict(new_tokens or {}),
        shown=tuple(_shown(batch_of(range(min(num_shown, dataset.num_units))), dataset.place, tokenizer, stops)),
    )


def answer_ends(tokenizer: Any, named: Sequence[str] | None = None) -> frozenset[int]:
    """What ends an answer: the tokens ``named`` in the recipe, else the end of sequence and the one of a turn in the
    chat template. What a model's generation settings add is known when it is loaded."""
    if named is not None:
        return frozenset(tokenizer.convert_tokens_to_ids(list(named)))
    ends = (plain_end(tokenizer), turn_end(tokenizer))
    return frozenset(end.stop for end in ends if end is not None and end.stop is not None)


def _counts(num_in_all: int, batch_of: Callable[[Sequence[int]], Batch], stops: Collection[int]) -> Counts:
    units = spread_units(num_in_all)
    num_units = len(units)
    seen: set[int] = set()
    tokens = trained = ending = sequences = repeated = 0
    for start in range(0, num_units, _AT_ONCE):
        batch = batch_of(units[start : start + _AT_ONCE])
        said: dict[int, tuple[bytes, ...]] = {}
        for number, (prompt, response, mask) in enumerate(_rows(batch)):
            sequences += 1
            tokens += len(prompt) + len(response)
            trained += int(mask.sum())
            ending += bool(len(response)) and bool(mask[-1]) and int(response[-1]) in stops
            unit = int(batch.dense("unit")[number])
            said[unit] = (*said.get(unit, ()), prompt.tobytes(), response.tobytes())
        for text in said.values():
            repeated += hash(text) in seen
            seen.add(hash(text))
    return Counts(num_units, sequences, tokens, trained, ending, repeated)


def _rows(batch: Batch) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
    """Prompt, response and mask of every sequence."""
    for row in range(len(batch)):
        prompt = batch.ragged("prompt_ids")[row]
        response = batch.ragged("response_ids")[row] if "response_ids" in batch else prompt[:0]
        mask = batch.ragged("response_mask")[row] if "response_mask" in batch else np.ones(len(response), np.uint8)
        yield prompt, response, mask


def _lengths(lengths: npt.NDArray[np.int64]) -> Lengths:
    longest = int(lengths.max(initial=1))
    width = -(-(longest + 1) // NUM_BARS)
    edges = np.arange(0, longest + width + 1, width)
    heights, _ = np.histogram(lengths, bins=edges)
    names = {0.5: "median", 0.9: "90 %", 0.99: "99 %", 1.0: "longest"}
    quantiles = {names[q]: int(np.quantile(lengths, q, method="higher")) for q in _QUANTILES} if len(lengths) else {}
    return Lengths(quantiles, tuple(edges.tolist()), tuple(heights.tolist()))


def _shown(
    batch: Batch, place_of: Callable[[int], str], tokenizer: Any, stops: Collection[int]
) -> Iterator[ShownSequence]:
    names = sides(batch)
    for number, (prompt, response, mask) in enumerate(_rows(batch)):
        ids = [*prompt.tolist(), *response.tolist()]
        tokens = tuple(
            Token(
                one, piece, "prompt" if place < len(prompt) else "response",
                trained=place >= len(prompt) and bool(mask[place - len(prompt)]), stop=one in stops,
            )
            for place, (one, piece) in enumerate(zip(ids, _pieces(tokenizer, ids), strict=True))
        )  # fmt: skip
        unit = int(batch.dense("unit")[number])
        yield ShownSequence(unit, place_of(unit), names[number], tokens)


def _pieces(tokenizer: Any, ids: Sequence[int]) -> Iterator[str]:
    """What each token adds to the text: to that of the piece before it, as tokenizers write the start of a text
    otherwise. A character whose bytes are divided between tokens is the last one's."""
    before = start = 0  # of the last piece, and of this one
    for end in range(1, len(ids) + 1):
        known, text = (_decoded(tokenizer, ids[before:until]) for until in (start, end))
        if text.endswith("\N{REPLACEMENT CHARACTER}") and end < len(ids):
            yield ""
            continue
        yield text[len(known) :]
        before, start = start, end


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
