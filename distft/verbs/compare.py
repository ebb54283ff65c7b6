"""``distft compare``."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distft.common.errors import UserError
from distft.verbs.run_folders import run_folder

if TYPE_CHECKING:
    from distft.report.comparison import Compared

DESCRIPTION = "two or more runs: where their recipes differ, and where they ended"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument(
        "run_dirs", metavar="RUN_DIR", type=run_folder, nargs="+", help="two or more, or a folder with runs in it"
    )
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page with the curves over each other, too")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Prints it. Raises UserError for fewer than two runs, and where one of the folders holds none."""
    from distft.report.comparison import compare_runs
    from distft.verbs.status_overview import run_folders

    folders = run_folders(arguments.run_dirs)
    if len(folders) < 2:
        what, shown = "one run has nothing to be compared with", shlex.quote(str(folders[0]))
        raise UserError(what, where=str(arguments.run_dirs[0]), hint=f"distft report {shown} shows it")
    found = compare_runs(folders)
    if arguments.html is not None:
        _write(found, arguments.html)
    print(json.dumps(found.as_json()) if arguments.json else "\n".join(tables(found)))


def tables(found: Compared) -> Iterator[str]:
    """The lines for people: how they ended, then what differs, and the metrics."""
    from distft.evaluation.bootstrap import LEVEL
    from distft.report.verdict import number, verdict

    for label, one in found.runs.items():
        yield f"{label}: {verdict(one)}"
    yield ""
    yield "recipes: no difference but names and folders" if not found.differences else "recipe"
    yield from _table(found, found.differences, lambda value: "-" if value is None else str(value))
    if found.held_out:
        yield from ("", "held out, before -> after")
        yield from _table(found, found.held_out, lambda pair: f"{number(pair[0])} -> {number(pair[1])}")
    if found.training:
        yield from ("", f"training, mean of the last fifth of the steps; in brackets {LEVEL:.0%} over these steps")
        yield from _table(
            found, found.training, lambda one: f"{number(one.value)} [{number(one.low)}, {number(one.high)}]"
        )


def _table(found: Compared, rows: Mapping[str, Mapping[str, Any]], shown: Callable[[Any], str]) -> Iterator[str]:
    cells = [
        [name, *(shown(values[label]) if label in values else "-" for label in found.runs)]
        for name, values in rows.items()
    ]
    if not cells:
        return
    widths = [max(map(len, column)) for column in zip(["", *found.runs], *cells, strict=True)]
    for row in (["", *found.runs], *cells):
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _write(found: Compared, path: Path) -> None:
    from distft.common.files import write_atomic
    from distft.report.compare_page import compare_page

    try:
        write_atomic(path, compare_page(found))
    except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as error:
        hint = "give another, in a folder that is there"
        raise UserError(f"the page cannot be written: {error.strerror}", where=f"--html {path}", hint=hint) from error
