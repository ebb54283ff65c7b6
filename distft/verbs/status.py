"""``distft status``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

DESCRIPTION = "what a run and its job are doing, or how they ended"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Prints it, for people or for scripts."""
    from distft.verbs.status_table import show, status_of

    status = status_of(arguments.run_dir.absolute())
    if arguments.json:
        print(json.dumps(status.as_json()))
    else:
        show(status)
