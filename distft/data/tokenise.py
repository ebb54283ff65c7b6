"""Examples to token ids under the length limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distft.common.errors import UserError
from distft.config.data import Data
from distft.config.find_method import traits_of
from distft.config.method import Unit
from distft.data.bad_rows import BadRow, OnBadRow, stop
from distft.data.encode import Encoded, Encoder, Over
from distft.data.encode_apart import encoder_for
from distft.data.formats import ClassifiedExample, Example, StepwiseExample, prompt_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Tokenised:
    """What is left of a list of examples. A row has its sequences: 1, 2 of a pair, or
    all answers of a ranking; an example that was cut into
    blocks is as many rows."""

    places: list[int] = field(default_factory=list)  # which examples
    sequences: list[tuple[Encoded, ...]] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)  # why others are left out, by place
    bad: dict[int, BadRow] = field(default_factory=dict)  # rows that the chat template refuses, by place

    def add(self, place: int, sequences: tuple[Encoded, ...], *, truncated: bool) -> None:
        """One more row."""
        self.places.append(place)
        self.sequences.append(sequences)
        self.truncated.append(truncated)

    @property
    def num_truncated(self) -> int:
        """How many rows were cut."""
        return sum(self.truncated)

    @property
    def dropped(self) -> Counter[str]:
        """Reason -> examples left out."""
        return Counter(self.reasons.values())


def tokenise(examples: Sequence[Example], kind: str, tokenizer: PreTrainedTokenizerBase, data: Data,
             loss_on: str | None, on_bad: OnBadRow = stop) -> Tokenised:  # fmt: skip
    """Encodes examples for a kind of algorithm and applies ``data.max_length`` (RL: ``max_prompt_length``).

    Over the limit, ``data.overlong`` decides: ``truncate`` keeps the start (a row with nothing left to train on is
    dropped), or all of it in blocks where the kind of algorithm learns ``in_blocks``, ``drop`` leaves the row out,
    ``error`` is a UserError naming the row and its length. A chat prompt is never truncated, as that would cut off
    where the assistant's turn begins: UserError.
    ``on_bad`` is called with rows that the chat template refuses, in their order.
    """
    traits, found = traits_of(kind), Tokenised()
    encoder = encoder_for(tokenizer, "reward" if traits.main == "reward" else "policy")
    for place, example in enumerate(examples):
        if traits.corrupts:
            _add_blocks(found, place, example, encoder, data)
            continue
        try:
            sequences = _encode(encoder, example, traits.unit, loss_on, data)
        except BadRow as bad:
            on_bad(bad)
            found.bad[place] = bad
            continue
        overs = [encoder.over(sequence, data, sampled=traits.sampled) for sequence in sequences]
        over = max((one for one in overs if one is not None), key=lambda one: one.length, default=None)
        if over is not None:
            if data.overlong == "drop":
                found.reasons[place] = "over the limit"
                continue
            _refuse_to_truncate(example, data.overlong, over, prompts=traits.sampled)
            if traits.in_blocks:
                for block in sequences[0].blocks(over.limit):
                    found.add(place, (block,), truncated=False)
                continue
            if traits.embeds:
                sequences = encoder.anchored(example, data.max_length)
            else:
                sequences = tuple(encoder.cut(sequence, data, sampled=traits.sampled) for sequence in sequences)
        if not traits.sampled and not all(sequence.trains for sequence in sequences):
            within = " within the limit" if over is not None else ""
            found.reasons[place] = f"nothing to train on{within}"
            continue
        found.add(place, sequences, truncated=over is not None)
    return found


def _add_blocks(found: Tokenised, place: int, example: Example, encoder: Encoder, data: Data) -> None:
    """A text that is to be corrupted: all of it, in blocks that share no token. One token has nothing to be restored
    by."""
    ids, limit = encoder.text(example), data.max_length - encoder.num_around
    if len(ids) > limit:
        if data.overlong == "drop":
            found.reasons[place] = "over the limit"
            return
        over = Over(len(ids) + encoder.num_around, data.max_length, "data.max_length")
        _refuse_to_truncate(example, data.overlong, over, prompts=False)
    blocks = [block for start in range(0, len(ids), limit) if len(block := ids[start : start + limit]) > 1]
    if not blocks:
        found.reasons[place] = "nothing to train on"
    for block in blocks:
        found.add(place, (Encoded([], block, [1] * len(block)),), truncated=False)


def _encode(encoder: Encoder, example: Example, unit: Unit, loss_on: str | None, data: Data) -> tuple[Encoded, ...]:
    """The sequences of a unit: of a pair two, of a ranking all its answers, of a tuple all its texts."""
    match unit.name:
        case "prompts":
            return (Encoded(encoder.prompt(example), [], []),)
        case "sequences" if isinstance(example, ClassifiedExample):
            return (encoder.classified(example),)
        case "sequences" if isinstance(example, StepwiseExample):
            return (encoder.stepwise(example, data.step_separator),)
        case "sequences" | "answers":
            return (encoder.supervised(example, loss_on),)
        case "pairs":
            return encoder.compared(example)
        case "tuples":
            return encoder.anchored(example)


def _refuse_to_truncate(example: Example, overlong: str, over: Over, *, prompts: bool) -> None:
    """UserError where an over-long row must not be cut."""
    conversation = prompts and not isinstance(prompt_of(example), str)
    if overlong == "error" or conversation:
        what = f"the {'prompt' if prompts else 'row'} has {over.length} tokens, {over.key} is {over.limit}"
        if overlong != "error":
            what += "; cutting its end would cut off where the assistant's turn begins"
        cures = "drop" if prompts else "truncate or drop"
        raise UserError(what, where=example.where, hint=f"raise {over.key}, or set `data.overlong` to {cures}")
