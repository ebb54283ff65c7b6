"""What ``distft data`` found: plain values, for the terminal, for JSON and for the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

_RAREST: Final = 10


@dataclass(frozen=True)
class Token:
    """``text``: what it adds to what stands before it. ``part``: prompt or response. ``trained``: its log-probability
    is in the loss; ``stop``: it ends an answer."""

    id: int
    text: str
    part: str
    trained: bool
    stop: bool


@dataclass(frozen=True)
class ShownSequence:
    """A tokenised sequence of a unit. ``place``: where its row was read. ``name``: see ``sides``."""

    unit: int
    place: str
    name: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Counts:
    """Of ``num_units`` units, spread evenly over the list. ``num_ending``: sequences whose
    last token is trained and a stop token. ``num_repeated``: units that say, token for token, what an earlier one did.
    """

    num_units: int
    num_sequences: int
    num_tokens: int
    num_trained: int
    num_ending: int
    num_repeated: int


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompt + response, of every sequence. ``edges`` has one more than ``heights``; a sequence of
    ``edges[i]`` to ``edges[i + 1] - 1`` tokens stands in bar i."""

    quantiles: dict[str, int]
    edges: tuple[int, ...]
    heights: tuple[int, ...]


@dataclass(frozen=True)
class ListXRay:
    """One list. ``answered`` is False for prompts, which the policy answers itself: nothing of them is trained;
    ``ended`` is False of what writes nothing: no token of it ends an answer. ``new_tokens``: how often those that the
    recipe adds to the vocabulary occur."""

    name: str
    statistics: str
    num_units: int
    answered: bool
    ended: bool
    counts: Counts
    lengths: Lengths
    new_tokens: dict[str, int]
    shown: tuple[ShownSequence, ...]

    def rarest(self) -> str:
        """The new tokens that occur least, in words; "" where there are none."""
        few = sorted(self.new_tokens.items(), key=lambda one: one[1])[:_RAREST]
        more = len(self.new_tokens) - len(few)
        return ", ".join(f"{text!r} {count:,}" for text, count in few) + (f" and {more} more often" if more else "")

    def remarks(self) -> Iterator[str]:
        """What a user should think about."""
        counts = self.counts
        if self.answered and not counts.num_trained:
            yield "no token is trained"
        if self.answered and self.ended and counts.num_ending < counts.num_sequences:
            missing = counts.num_sequences - counts.num_ending
            yield (
                f"{missing} of {counts.num_sequences} sequences end without a trained stop token: cut at "
                "data.max_length, or the template writes none; of them no model learns to stop"
            )
        if counts.num_repeated:
            yield f"{counts.num_repeated} of {counts.num_units} rows repeat an earlier one, token for token"


@dataclass(frozen=True)
class DataXRay:
    """The lists of a recipe. ``template``: the chat template in use, empty without one; ``warnings`` are the run's."""

    name: str
    kind: str
    template: str
    stop_tokens: tuple[str, ...]
    warnings: tuple[str, ...]
    lists: tuple[ListXRay, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)
