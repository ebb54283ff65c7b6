"""Every allowed meeting happens, in few cells."""

from __future__ import annotations

from distft.doctor.covering import covering_array, meetings
from distft.doctor.support import Cell, Verdict


def verdicts() -> dict[Cell, Verdict]:
    """Three methods, adapters and stages; of the first method's only one adapter."""
    return {
        cell: Verdict(("a takes no y",) * (cell.method == "a" and cell.adapter != "x"))
        for cell in (
            Cell(method, "decoder", adapter, "none", stage, "hf")
            for method in "abc"
            for adapter in "xyz"
            for stage in "012"
        )
    }


def test_every_allowed_meeting_happens_and_no_other() -> None:
    allowed = [cell for cell, verdict in verdicts().items() if not verdict.refusals]
    chosen = covering_array(verdicts())
    assert set(chosen) <= set(allowed)
    met = frozenset[object]().union(*map(meetings, chosen))
    assert met == frozenset[object]().union(*map(meetings, allowed))
    # Nine pairs of adapter and stage, and of b or c and stage or adapter; a with x alone, at each of three stages.
    assert 9 <= len(chosen) <= 12 < len(allowed)


def test_what_brings_most_comes_first() -> None:
    chosen = covering_array(verdicts())
    new, met = [], set[object]()
    for cell in chosen:
        new.append(len(meetings(cell) - met))
        met |= meetings(cell)
    assert new == sorted(new, reverse=True)
    assert new[0] == 16  # of six axes fifteen pairs, and the triple
