"""``distft plan``."""

from __future__ import annotations

import argparse
import json
import shlex
from typing import TYPE_CHECKING

from distft.verbs.recipe import add_recipe, add_stage_cluster, clusters_of

if TYPE_CHECKING:
    from distft.planning.eval_stages import EvalPlan
    from distft.planning.plan import Plan

DESCRIPTION = "which rank goes where, batch arithmetic, memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    add_recipe(parser)
    add_stage_cluster(parser)
    parser.add_argument("--nodes", type=int, metavar="N", help="as if the cluster file said so many nodes")
    parser.add_argument("--must-fit", action="store_true", help="exit 3 where it is not known whether it fits")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Draws it, or those of a pipeline. Raises EnvironmentFallsShort, after all are drawn, where one does not fit."""
    from distft.config.load import load_recipe
    from distft.config.pipeline import is_pipeline
    from distft.launch.preflight.checks import check_memory
    from distft.launch.prepare import planned
    from distft.planning.drawing import draw
    from distft.planning.eval_stages import EvalPlan

    if is_pipeline(arguments.recipe):
        found = _of_stages(arguments)
        if arguments.json:
            print(json.dumps({name: plan.model_dump(mode="json") for name, plan in found.items()}, indent=1))
        else:
            print("\n\n\n".join(map(draw, found.values())))
        plans = {name: plan for name, plan in found.items() if not isinstance(plan, EvalPlan)}
    else:
        clusters_of([], arguments.stage_cluster)
        plan = planned(load_recipe(arguments.recipe, arguments.overrides), arguments.cluster, nodes=arguments.nodes)
        print(plan.model_dump_json(indent=1) if arguments.json else draw(plan))
        plans = {plan.recipe: plan}
    for plan in plans.values():
        check_memory(plan, must_know=arguments.must_fit)


def _of_stages(arguments: argparse.Namespace) -> dict[str, Plan | EvalPlan]:
    """The plan of every stage, by the sizes of what it will start from."""
    from distft.config.cluster import load_cluster
    from distft.config.pipeline import Stage, load_pipeline
    from distft.launch.prepare import planned
    from distft.planning.eval_stages import plan_eval_stage
    from distft.verbs.eval_stage import eval_words

    pipeline = load_pipeline(arguments.recipe, arguments.overrides)
    clusters = clusters_of([stage.name for stage in pipeline.stages], arguments.stage_cluster)
    found: dict[str, Plan | EvalPlan] = {}
    for stage in pipeline.stages:
        cluster = clusters.get(stage.name, arguments.cluster)
        if isinstance(stage, Stage):
            found[stage.name] = planned(stage.shaped, cluster, nodes=arguments.nodes)
        else:
            command = shlex.join(["distft", *eval_words(pipeline, stage)])
            found[stage.name] = plan_eval_stage(stage, load_cluster(cluster), command)
    return found
