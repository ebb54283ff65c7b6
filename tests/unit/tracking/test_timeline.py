"""timeline.json: bars by role and rank, whole after every write, gone on with after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distft.tracking.timeline import TIMELINE, Timeline
from distft.tracking.timing import Span


def events(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / TIMELINE).read_text()))


def bars(folder: Path) -> list[tuple[int, int, str, int, int]]:
    return [(e["pid"], e["tid"], e["name"], e["ts"], e["dur"]) for e in events(folder) if e["ph"] == "X"]


def names(folder: Path) -> list[tuple[str, int, int, Any]]:
    return [(e["name"], e["pid"], e["tid"], *e["args"].values()) for e in events(folder) if e["ph"] == "M"]


def test_a_process_a_role_a_thread_a_rank_a_bar_a_verb(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path)
    timeline.write([Span("controller", 0, "update", 10.0, 2.0), Span("policy", 1, "update", 10.5, 1.0)])
    assert bars(tmp_path) == [(1, 0, "update", 10_000_000, 2_000_000), (4, 1, "update", 10_500_000, 1_000_000)]
    assert names(tmp_path) == [
        ("process_name", 1, 0, "controller"), ("process_sort_index", 1, 0, 1), ("thread_name", 1, 0, "phases"),
        ("process_name", 4, 0, "policy"), ("process_sort_index", 4, 0, 4), ("thread_name", 4, 1, "rank 1"),
    ]  # fmt: skip
    timeline.write([Span("policy", 0, "sleep", 12.0, 0.5)])
    assert bars(tmp_path)[2:] == [(4, 0, "sleep", 12_000_000, 500_000)]
    assert names(tmp_path)[6:] == [("thread_name", 4, 0, "rank 0")], "what is named already is not named again"
    timeline.close()


def test_another_attempt_goes_on_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    first = Timeline(tmp_path)
    first.write([Span("policy", 0, "one", 1.0, 1.0), Span("policy", 0, "two", 2.0, 1.0)])
    first.close()
    path = tmp_path / TIMELINE
    path.write_text(path.read_text()[:-12])  # killed while it wrote
    second = Timeline(tmp_path)
    second.write([Span("policy", 0, "three", 3.0, 1.0)])
    second.close()
    assert [bar[2] for bar in bars(tmp_path)] == ["one", "three"]


def test_nothing_done_is_an_empty_array(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path)
    timeline.write([])
    timeline.close()
    assert events(tmp_path) == []
