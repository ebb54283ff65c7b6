"""``--tolerance`` of the verbs that compare the numbers of two runs."""

from __future__ import annotations

import math

from distft.common.errors import UserError


def require_share(tolerance: float | None) -> None:
    """Raises UserError for what is no share."""
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise UserError("is no share", where=f"--tolerance {tolerance}", hint="a number from 0 on, such as 1e-3")
