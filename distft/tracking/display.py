"""How a run is shown where it was started."""

from __future__ import annotations

import sys
from typing import TextIO

from distft.tracking.live_view import LiveProgress
from distft.tracking.progress import PlainProgress, Progress, QuietProgress


def make_progress(name: str, *, quiet: bool = False, stream: TextIO | None = None) -> Progress:
    """Nothing if ``quiet`` (``--json``), live if ``stream`` (stdout) is a terminal, else plain lines."""
    out = stream if stream is not None else sys.stdout
    if quiet:
        return QuietProgress()
    return LiveProgress(name, out) if out.isatty() else PlainProgress(name, out)
