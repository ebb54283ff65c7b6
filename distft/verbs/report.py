"""``distft report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from distft.common.errors import UserError
from distft.verbs.run_folders import run_folder

DESCRIPTION = "a run as one HTML file that loads nothing: verdict, curves, samples, time, memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=run_folder)
    parser.add_argument("--html", metavar="FILE", type=Path, help="write it there (default: RUN_DIR/report.html)")


def run(arguments: argparse.Namespace) -> None:
    """Writes it and prints where it lies. Raises UserError where there is no run, or no room for the file."""
    from distft.report.run_page import write_report

    try:
        print(write_report(arguments.run_dir.absolute(), arguments.html))
    except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as error:
        where = str(arguments.html or arguments.run_dir)
        hint = "give another with --html FILE, in a folder that is there"
        raise UserError(f"the report cannot be written: {error.strerror}", where=where, hint=hint) from error
