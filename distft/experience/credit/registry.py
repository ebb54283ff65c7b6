"""Ways of assigning credit, by the algorithm that takes them."""

from __future__ import annotations

from typing import Any

from distft.experience.credit.base import Credit
from distft.experience.credit.gae import gae

CREDIT: dict[str, Credit] = {"ppo": gae}


def credit_of(section: Any) -> Credit:
    """The algorithm's way. KeyError for one that samples nothing."""
    return CREDIT[section.kind]
