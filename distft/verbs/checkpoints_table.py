"""What ``distft checkpoints`` shows to people."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distft.checkpoint.listing import Listed
from distft.tracking.progress import size_of

_HEAD = ("step", "written", "size", "ranks", "attempt", "state")


def show(found: Sequence[Listed], *, verified: bool, console: Console | None = None) -> None:
    """Prints a row for each; of a damaged one what is wrong with it. ``verified``: the hashes were compared."""
    table = Table(*_HEAD, box=None, pad_edge=False, header_style="bold")
    for one in found:
        table.add_row(str(one.step), *_origin(one), Text(_state(one, verified), style="red" if one.faults else ""))
    target = console or Console()
    target.print(table)
    if not any(one.is_next for one in found):
        target.print("none of them can be used: a resume is refused", style="red")


def _origin(one: Listed) -> tuple[str, str, str, str]:
    kept = one.manifest
    if kept is None:
        return "?", "?", "?", "?"
    written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(kept.time))
    ranks = ", ".join(f"{role} {layout.ranks}" for role, layout in kept.layouts.items())
    return written, size_of(kept.num_bytes), ranks, str(kept.attempt)


def _state(one: Listed, verified: bool) -> str:
    if one.faults:
        return "damaged: " + "; ".join(one.faults)
    whole = "whole" if verified else "sizes are right"
    return f"{whole}; a resume takes it" if one.is_next else whole
