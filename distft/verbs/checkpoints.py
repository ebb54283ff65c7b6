"""``distft checkpoints``."""

from __future__ import annotations

import argparse
import json

from distft.verbs.run_folders import run_folder

DESCRIPTION = "the checkpoints of a run, each verified against its manifest, and which one a resume would take"
_DAMAGED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=run_folder)
    parser.add_argument("--quick", action="store_true", help="names and sizes only: no file is read")
    parser.add_argument("--json", action="store_true", help="print them as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Lists and verifies them. Exit status 1 where one of them is damaged."""
    from distft.checkpoint.listing import list_checkpoints
    from distft.verbs.checkpoints_table import show

    found = list_checkpoints(arguments.run_dir.absolute(), hashes=not arguments.quick)
    if arguments.json:
        print(json.dumps([one.as_json() for one in found]))
    else:
        show(found, verified=not arguments.quick)
    return _DAMAGED if any(one.faults for one in found) else 0
