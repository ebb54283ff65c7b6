"""``distft logs``."""

from __future__ import annotations

import argparse

from distft.common.errors import UserError
from distft.verbs.run_folders import run_folder

DESCRIPTION = "what a run's processes log, in the order of time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=run_folder)
    parser.add_argument("--follow", "-f", action="store_true", help="until the run ends; then with its exit status")
    parser.add_argument("--role", help="this role's only, or `driver` (default: the driver and all roles)")
    parser.add_argument("--rank", default="0", help="this rank's, or `all` (default: 0)")
    parser.add_argument("--stages", action="store_true", help="also what each process sets out to do, line by line")
    parser.add_argument("-n", "--lines", type=int, default=30, help="how many of those that are there (default: 30)")


def run(arguments: argparse.Namespace) -> int:
    """Prints them, those to come too where they are followed. Raises UserError."""
    from distft.launch.jobs.logs import Selection, follow_logs, show_logs

    rank = arguments.rank
    if rank != "all" and not rank.isdecimal():
        raise UserError("must be a number or `all`", where=f"--rank {rank}")
    if arguments.lines < 0:
        raise UserError("must be at least 0", where=f"-n {arguments.lines}")
    selection = Selection(arguments.role, None if rank == "all" else int(rank), arguments.stages)
    run_dir = arguments.run_dir.absolute()
    if arguments.follow:
        return follow_logs(run_dir, selection, arguments.lines)
    show_logs(run_dir, selection, arguments.lines)
    return 0
