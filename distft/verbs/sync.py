"""``distft sync``."""

from __future__ import annotations

import argparse

from distft.verbs.run_folders import run_folder

DESCRIPTION = "send to Weights & Biases what was kept offline, or what it missed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("run_dirs", metavar="RUN_DIR", type=run_folder, nargs="+", help="one or more")
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")


def run(arguments: argparse.Namespace) -> None:
    """Sends what is not there yet, each run's starts in their order. Raises UserError, EnvironmentFallsShort."""
    from distft.tracking.wandb_sync import sync

    sync(arguments.run_dirs, dry_run=arguments.dry_run)
