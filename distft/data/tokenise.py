"""Many examples to token ids under the length limits, in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distft.common.errors import UserError
from distft.config.data import Data
from distft.data.bad_rows import BadRow, OnBadRow, stop
from distft.data.encode import Encoded, Encoder
from distft.data.formats import Example, prompt_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 2000  # examples a worker process is given at once


@dataclass
class Tokenised:
    """What is left of a list of examples. A row has its sequences: 1, or 2 for a pair."""

    places: list[int] = field(default_factory=list)  # which examples
    sequences: list[tuple[Encoded, ...]] = field(default_factory=list)
    num_truncated: int = 0
    bad: list[BadRow] = field(default_factory=list)  # rows that the chat template refuses
    dropped: Counter[str] = field(default_factory=Counter)


def tokenise(examples: Sequence[Example], kind: str, tokenizer: PreTrainedTokenizerBase, data: Data,
             loss_on: str | None, on_bad: OnBadRow = stop) -> Tokenised:  # fmt: skip
    """Encodes examples for a kind of algorithm and applies ``data.max_length`` (RL: ``max_prompt_length``).

    Over the limit, ``data.overlong`` decides: ``truncate`` keeps the start (a row with nothing left to train on is
    dropped), ``drop`` leaves the row out, ``error`` is a UserError naming the row and its length. A chat prompt
    is never truncated, as that would cut off where the assistant's turn begins: UserError.
    ``on_bad`` is called with rows that the chat template refuses, in their order.
    ``data.num_workers`` processes share the work; the result does not depend on their number.
    """
    if data.num_workers < 1 or len(examples) <= _CHUNK:
        return _judged(_tokenise_chunk(examples, kind, tokenizer, data, loss_on), on_bad)
    chunks = [examples[start : start + _CHUNK] for start in range(0, len(examples), _CHUNK)]
    # spawn: a fork would copy the threads' locks of the process around it
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(data.num_workers, len(chunks)), mp_context=context) as pool:
        jobs = [pool.submit(_tokenise_chunk, chunk, kind, tokenizer, data, loss_on) for chunk in chunks]
        return _joined([_judged(job.result(), on_bad) for job in jobs])


def _judged(part: Tokenised, on_bad: OnBadRow) -> Tokenised:
    for bad in part.bad:
        on_bad(bad)
    return part


def _tokenise_chunk(examples: Sequence[Example], kind: str, tokenizer: PreTrainedTokenizerBase, data: Data,
                    loss_on: str | None) -> Tokenised:  # fmt: skip
    encoder = Encoder(tokenizer, "reward" if kind == "reward" else "policy")
    found = Tokenised()
    tolerated = data.max_dropped if data.on_bad_row == "drop" else 0  # after one more nothing of this is needed
    for place, example in enumerate(examples):
        try:
            sequences = _encode(encoder, example, kind, loss_on)
        except BadRow as bad:
            found.bad.append(bad)
            if len(found.bad) > tolerated:
                break
            continue
        limit = data.max_prompt_length if kind == "ppo" else data.max_length
        longest = max(len(sequence) for sequence in sequences)
        if longest > limit:
            if data.overlong == "drop":
                found.dropped["over the limit"] += 1
                continue
            _refuse_to_truncate(example, kind, data.overlong, longest, limit)
            sequences = tuple(sequence.truncated(limit) for sequence in sequences)
        if kind != "ppo" and not all(sequence.trains for sequence in sequences):
            found.dropped["nothing to train on within the limit" if longest > limit else "nothing to train on"] += 1
            continue
        found.places.append(place)
        found.sequences.append(sequences)
        found.num_truncated += longest > limit
    return found


def _encode(encoder: Encoder, example: Example, kind: str, loss_on: str | None) -> tuple[Encoded, ...]:
    if kind == "ppo":
        return (Encoded(encoder.prompt(example), [], []),)
    if kind == "sft":
        return (encoder.supervised(example, loss_on),)
    return encoder.pair(example)


def _refuse_to_truncate(example: Example, kind: str, overlong: str, length: int, limit: int) -> None:
    """UserError where an over-long row must not be cut."""
    key = "data.max_prompt_length" if kind == "ppo" else "data.max_length"
    conversation = kind == "ppo" and not isinstance(prompt_of(example), str)
    if overlong == "error" or conversation:
        what = f"the {'prompt' if kind == 'ppo' else 'row'} has {length} tokens, {key} is {limit}"
        if overlong != "error":
            what += "; cutting its end would cut off where the assistant's turn begins"
        cures = "drop" if kind == "ppo" else "truncate or drop"
        raise UserError(what, where=example.where, hint=f"raise {key}, or set `data.overlong` to {cures}")


def _joined(parts: list[Tokenised]) -> Tokenised:
    whole = Tokenised()
    for number, part in enumerate(parts):
        whole.places += [number * _CHUNK + place for place in part.places]
        whole.sequences += part.sequences
        whole.bad += part.bad
        whole.num_truncated += part.num_truncated
        whole.dropped += part.dropped
    return whole
