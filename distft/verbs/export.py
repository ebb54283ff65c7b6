"""``distft export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from distft.verbs.run_folders import run_folder

DESCRIPTION = "a plain Hugging Face folder from a run or a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("source", metavar="RUN_DIR_OR_CHECKPOINT", type=run_folder)
    parser.add_argument("target", metavar="OUT", type=Path)


def run(arguments: argparse.Namespace) -> None:
    """Writes the folder."""
    from distft.launch.export import export

    print(f"exported to {export(arguments.source, arguments.target)}")
