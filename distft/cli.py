"""The verbs. Nothing heavy is imported before a verb needs it: ``distft --help`` must answer at once."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distft.common.errors import DistftError

EXAMPLES = """\
first steps:
  distft quickstart                            SFT, reward model, PPO and DPO on this machine
  distft recipes                               what is shipped
  distft plan ppo-tiny                         what would run where, and whether it fits
  distft train sft-tiny train.steps=50         train; the same command goes on where it stopped
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb. Exit status: 0 done, 1 a failed run, 2 wrong input, 3 the machine falls short, 75 stopped."""
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except DistftError as error:
        print(f"distft: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("distft: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    from distft import __version__

    parser = argparse.ArgumentParser(
        prog="distft",
        description="Align and fine-tune language models on clusters.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"distft {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    quickstart = verbs.add_parser("quickstart", help="SFT, reward model, PPO and DPO on the embedded data, here")
    quickstart.add_argument("--output", type=Path, default=Path("runs/quickstart"), help="folder of the four runs")
    quickstart.set_defaults(run=_quickstart)

    train = verbs.add_parser("train", help="run a recipe here, or go on where it stopped")
    _recipe_arguments(train)
    train.add_argument("--quiet", action="store_true", help="no progress display")
    train.add_argument("--dry-run", action="store_true", help="check everything, start nothing")
    train.set_defaults(run=_train)

    plan = verbs.add_parser("plan", help="which rank goes where, batch arithmetic, memory; exit 2 if it does not fit")
    _recipe_arguments(plan)
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.set_defaults(run=_plan)

    export = verbs.add_parser("export", help="a plain Hugging Face folder from a run or a checkpoint")
    export.add_argument("source", metavar="RUN_DIR_OR_CHECKPOINT", type=Path)
    export.add_argument("target", metavar="OUT", type=Path)
    export.set_defaults(run=_export)

    recipes = verbs.add_parser("recipes", help="the shipped recipes, a line each")
    recipes.add_argument("--json", action="store_true", help="print them as JSON")
    recipes.set_defaults(run=_recipes)
    return parser


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="e.g. optimizer.learning_rate=2e-6")
    parser.add_argument("--cluster", default="local", help="a shipped name or a YAML file (default: local)")


def _quickstart(arguments: argparse.Namespace) -> None:
    from distft.launch.quickstart import quickstart

    quickstart(arguments.output)


def _train(arguments: argparse.Namespace) -> None:
    from distft.config.load import load_recipe
    from distft.launch.run import check, train
    from distft.launch.table import before_after

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.dry_run:
        check(recipe, arguments.cluster)
        print(f"{recipe.name}: ready to start")
        return
    outcome = train(recipe, arguments.cluster, quiet=arguments.quiet)
    if outcome.finished_before:
        print(f"{recipe.name}: already finished, see {outcome.run_dir}")
        return
    print(before_after({recipe.name: outcome.table}))
    print(f"{recipe.name}: done, the model is in {outcome.run_dir / 'final'}")


def _plan(arguments: argparse.Namespace) -> None:
    from distft.common.errors import UserError
    from distft.config.cluster import load_cluster
    from distft.config.load import load_recipe
    from distft.launch.drawing import draw
    from distft.launch.machine import this_machine
    from distft.launch.plan import make_plan

    cluster = load_cluster(arguments.cluster)
    plan = make_plan(
        load_recipe(arguments.recipe, arguments.overrides),
        cluster,
        machine=this_machine() if cluster.kind == "local" else None,
    )
    print(plan.model_dump_json(indent=1) if arguments.json else draw(plan))
    if plan.fits is False:
        raise UserError("the plan does not fit", where=arguments.recipe, hint="see what would above")


def _export(arguments: argparse.Namespace) -> None:
    from distft.launch.export import export

    print(f"exported to {export(arguments.source, arguments.target)}")


def _recipes(arguments: argparse.Namespace) -> None:
    from distft.config.load import shipped_recipes

    found = shipped_recipes()
    if arguments.json:
        print(json.dumps([{"name": name, "description": text} for name, text in found]))
        return
    width = max(len(name) for name, _ in found)
    for name, text in found:
        print(f"{name:<{width}}  {text}")


def run_main() -> Any:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run_main()
