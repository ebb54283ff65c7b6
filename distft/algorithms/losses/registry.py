"""Losses by name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from distft.algorithms.losses.base import Loss
from distft.algorithms.losses.dpo import Dpo
from distft.algorithms.losses.ppo import PpoPolicy, PpoValue
from distft.algorithms.losses.reward import Reward
from distft.algorithms.losses.sft import Sft

LOSSES: dict[str, type[Sft | Reward | Dpo | PpoPolicy | PpoValue]] = {
    "sft": Sft,
    "reward": Reward,
    "dpo": Dpo,
    "ppo_policy": PpoPolicy,
    "ppo_value": PpoValue,
}


def build_loss(name: str, params: Mapping[str, Any]) -> Loss:
    """The loss of that name.

    Raises:
        ValueError: an unknown name or parameter, with the nearest known one, or a value out of range.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}{_nearest(name, list(LOSSES))}")
    known = [field.name for field in dataclasses.fields(LOSSES[name])]
    for key in params:
        if key not in known:
            raise ValueError(f"loss {name} has no parameter {key!r}{_nearest(key, known)}")
    return LOSSES[name](**params)


def _nearest(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; known: {', '.join(known) or 'none'}"
