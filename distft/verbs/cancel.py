"""``distft cancel``."""

from __future__ import annotations

import argparse

from distft.verbs.run_folders import run_folder

DESCRIPTION = "stop a run with a checkpoint; a second time: at once"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=run_folder)
    parser.add_argument("--now", action="store_true", help="at once, without a checkpoint")


def run(arguments: argparse.Namespace) -> None:
    """Asks it to stop, and says what was done."""
    from distft.launch.jobs.cancel import cancel

    print(cancel(arguments.run_dir.absolute(), now=arguments.now))
