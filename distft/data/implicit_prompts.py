"""Pairs that are whole texts or conversations: where the prompt ends and the two answers begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distft.data.formats import Content


def implicit_prompt(chosen: Content, rejected: Content) -> tuple[Content, Content, Content]:
    """The common beginning of two sequences, cut where an answer may begin: (prompt, chosen, rejected).

    Messages: whole turns, up to a turn that is not the assistant's. Texts: up to the white space before the
    first word that differs, which stays with the answers (tokenizers join it to the word that follows).
    """
    if isinstance(chosen, str) or isinstance(rejected, str):
        chosen, rejected = str(chosen), str(rejected)
        cut = _common(chosen, rejected)
        # A cut at the end of one side would leave that side empty, or split the word that goes on in the other.
        while cut > 0 and not (chosen[cut : cut + 1].isspace() and rejected[cut : cut + 1].isspace()):
            cut -= 1
        while cut > 0 and chosen[cut - 1].isspace():
            cut -= 1
        return chosen[:cut], chosen[cut:], rejected[cut:]
    cut = _common(chosen, rejected)
    while cut > 0 and (cut >= min(len(chosen), len(rejected)) or chosen[cut - 1].role == "assistant"):
        cut -= 1
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The number of leading items that two sequences share."""
    for place, (item, other) in enumerate(zip(a, b, strict=False)):
        if item != other:
            return place
    return min(len(a), len(b))


def repeats_prompt(prompt: Content, sides: list[Content]) -> bool:
    """Whether both sides are whole conversations that hold the prompt already (as UltraFeedback's rows do)."""
    for side in sides:
        if isinstance(side, str):
            return False
        if isinstance(prompt, str):
            if not any(message.role == "user" and message.content.strip() == prompt.strip() for message in side[:2]):
                return False
        elif side[: len(prompt)] != prompt:
            return False
    return bool(prompt)
