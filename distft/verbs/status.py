"""``distft status``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from distft.verbs.run_folders import run_folder

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from distft.tracking.run_status import RunStatus

_NARROWEST = 72  # columns
DESCRIPTION = "what runs and their jobs are doing, or how they ended"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument(
        "run_dirs",
        metavar="RUN_DIR",
        type=run_folder,
        nargs="+",
        help="a run folder, or one with runs in it; or several",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON; of several runs a list")
    parser.add_argument(
        "--watch", metavar="SECONDS", nargs="?", const="10", help="again every so often (10), until all have ended"
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints it, for people or for scripts."""
    from distft.verbs.status_overview import every

    if arguments.watch is None:
        _print(_look(arguments.run_dirs), as_json=arguments.json)
    else:
        _watch(arguments.run_dirs, every(arguments.watch), as_json=arguments.json)


def _look(said: list[Path]) -> list[RunStatus]:
    from distft.verbs.status_overview import run_folders
    from distft.verbs.status_table import status_of

    return [status_of(folder) for folder in run_folders(said)]


def _print(found: list[RunStatus], *, as_json: bool) -> None:
    if as_json:
        said = [status.as_json() for status in found]
        print(json.dumps(said[0] if len(said) == 1 else said), flush=True)
    else:
        _console().print(_table(found))


def _watch(said: list[Path], seconds: float, *, as_json: bool) -> None:
    """On a terminal in place; else one table, or one line of JSON, after the other."""
    import time

    from rich.live import Live

    from distft.verbs.status_overview import is_over

    console, found = _console(), _look(said)
    if as_json or not console.is_terminal:
        _print(found, as_json=as_json)
        while not is_over(found):
            time.sleep(seconds)
            found = _look(said)
            _print(found, as_json=as_json)
        return
    with Live(_table(found), console=console, auto_refresh=False) as live:
        while not is_over(found):
            time.sleep(seconds)
            found = _look(said)
            live.update(_table(found), refresh=True)


def _console() -> Console:
    """A terminal that is narrower than this breaks lines itself: columns of three letters nobody could read."""
    from rich.console import Console

    console = Console()
    console.width = max(console.width, _NARROWEST)
    return console


def _table(found: list[RunStatus]) -> Table:
    from distft.verbs.status_overview import overview
    from distft.verbs.status_table import table

    return table(found[0]) if len(found) == 1 else overview(found)
