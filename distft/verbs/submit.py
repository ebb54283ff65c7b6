"""``distft submit``."""

from __future__ import annotations

import argparse

from distft.verbs.recipe import add_recipe, add_stage_cluster, clusters_of

DESCRIPTION = "train as a job of Slurm (a pipeline: dependent jobs), or of a Ray cluster that runs already"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("target", choices=("slurm", "ray"), help="who runs the job")
    add_recipe(parser, cluster=None)
    add_stage_cluster(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted, submit nothing")
    parser.add_argument("--json", action="store_true", help="print the job as JSON, and do not follow it")
    parser.add_argument(
        "--follow", action=argparse.BooleanOptionalAction, default=None,
        help="show what the run logs and end with its exit status (default: of Ray jobs)",
    )  # fmt: skip
    parser.add_argument(
        "--after", action="append", default=[], metavar="ID", help="Slurm: start after this job ended well"
    )
    parser.add_argument("--array", metavar="SPEC", help="Slurm: an array of jobs, 1-8%%2 say; {task} is its number")
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="KEY=A,B",
        help="Slurm: an array with a task for each value; again for more keys: all combinations",
    )  # fmt: skip
    parser.add_argument(
        "--slurm", dest="slurm_options", action="append", default=[], metavar="KEY=VALUE",
        help="in place of the cluster file's: time, partition, nodelist, exclude, mail_user, mail_type, comment, ...",
    )  # fmt: skip
    parser.add_argument(
        "--replace", action="store_true", help="stop the run's job that has not ended; the new one goes on from there"
    )


def run(arguments: argparse.Namespace) -> int:
    """Submits the job; of one that is followed the exit status."""
    from distft.config.pipeline import is_pipeline

    if is_pipeline(arguments.recipe):
        from distft.verbs.submitting_pipeline import submit_pipeline

        return submit_pipeline(arguments)
    from distft.verbs.submitting import submit

    clusters_of([], arguments.stage_cluster)
    return submit(arguments)
