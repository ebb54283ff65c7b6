"""``distft plan``."""

from __future__ import annotations

import argparse

from distft.verbs.recipe import add_recipe

DESCRIPTION = "which rank goes where, batch arithmetic, memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    add_recipe(parser)
    parser.add_argument("--nodes", type=int, metavar="N", help="as if the cluster file said so many nodes")
    parser.add_argument("--must-fit", action="store_true", help="exit 3 where it is not known whether it fits")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Draws it. Raises EnvironmentFallsShort, after it is drawn, where it does not fit."""
    from distft.config.load import load_recipe
    from distft.launch.preflight.checks import check_memory
    from distft.launch.prepare import planned
    from distft.planning.drawing import draw

    plan = planned(load_recipe(arguments.recipe, arguments.overrides), arguments.cluster, nodes=arguments.nodes)
    print(plan.model_dump_json(indent=1) if arguments.json else draw(plan))
    check_memory(plan, must_know=arguments.must_fit)
