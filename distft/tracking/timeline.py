"""``RUN/timeline.json``: who did what when, for eyes. Perfetto (ui.perfetto.dev) and chrome://tracing open it.

An array of events in Chrome's trace event format: a process a role, a thread a rank, a bar a verb; the first process is
the controller with its phases. Times are microseconds, by the clock of the node where a rank runs.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from distft.config.role_table import ROLES
from distft.tracking.timing import Span

TIMELINE = "timeline.json"
# From top to bottom; whoever is not named comes below.
_ORDER = ("controller", "data", "rollout", *ROLES)
_END = b"\n]\n"


class Timeline:
    """The file, whole after every write; what a former attempt has written stays."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / TIMELINE
        self._file: IO[bytes] | None = None
        self._empty = True
        self._rows: dict[str, int] = {}
        self._threads: set[tuple[str, int]] = set()

    def write(self, spans: Iterable[Span]) -> None:
        """Adds the spans. Raises OSError if the file cannot be written."""
        file = self._file or self._opened()
        lines = [json.dumps(event) for span in spans for event in (*self._names(span), self._bar(span))]
        if lines:
            file.seek(-len(_END), os.SEEK_END)
            file.write(b"" if self._empty else b",\n")
            file.write(",\n".join(lines).encode() + _END)
            file.flush()
            self._empty = False

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a full disk, which was said when it was written
                self._file.close()

    def _opened(self) -> IO[bytes]:
        kept = _whole_lines(self._path)
        self._file, self._empty = self._path.open("wb+"), not kept
        self._file.write(b"[\n" + ",\n".join(kept).encode() + _END)
        self._file.flush()
        return self._file

    def _bar(self, span: Span) -> dict[str, Any]:
        return {
            "ph": "X", "name": span.what, "pid": self._row(span.who), "tid": span.rank,
            "ts": round(span.start * 1e6), "dur": round(span.seconds * 1e6),
        }  # fmt: skip

    def _names(self, span: Span) -> list[dict[str, Any]]:
        """What a process and a thread are called, once."""
        row, events = self._row(span.who), []
        if not any(who == span.who for who, _ in self._threads):
            events += [_named("process_name", row, 0, {"name": span.who}),
                       _named("process_sort_index", row, 0, {"sort_index": row})]  # fmt: skip
        if (span.who, span.rank) not in self._threads:
            self._threads.add((span.who, span.rank))
            name = "phases" if span.who == _ORDER[0] else f"rank {span.rank}"
            events.append(_named("thread_name", row, span.rank, {"name": name}))
        return events

    def _row(self, who: str) -> int:
        if who not in self._rows:
            known = _ORDER.index(who) if who in _ORDER else len(_ORDER) + len(self._rows)
            self._rows[who] = known + 1
        return self._rows[who]


def _named(what: str, row: int, rank: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": row, "tid": rank, "args": arguments}


def _whole_lines(path: Path) -> list[str]:
    """The events that a former attempt has written; one that was cut off is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    return [line.rstrip(",") for line in lines if line.rstrip(",").endswith("}") and _is_json(line.rstrip(","))]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
