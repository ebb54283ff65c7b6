"""``distft doctor``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from distft.common.errors import EnvironmentFallsShort

DESCRIPTION = "is everything there that a run needs, on every node?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("--cluster", default="local", help="a shipped name or a YAML file (default: local)")
    parser.add_argument(
        "--recipe", dest="planned", metavar="RECIPE", help="check room for its checkpoints, where it writes them"
    )
    parser.add_argument("--folder", type=Path, help="the folder that all nodes share (default: the recipe's, or this)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the findings; the exit status says whether one of them is wrong."""
    from distft.doctor.examine import examine

    report = examine(arguments.cluster, recipe_name=arguments.planned, folder=arguments.folder)
    print(json.dumps(report.as_json()) if arguments.json else "\n".join(report.lines()))
    return EnvironmentFallsShort.exit_status if report.wrong else 0
