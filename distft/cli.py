"""The verbs. Nothing heavy is imported before a verb needs it: ``distft --help`` must answer at once."""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from distft.common.errors import DistftError, EnvironmentFallsShort, UserError, nearest

EXAMPLES = """\
first steps:
  distft quickstart                            SFT, reward model, PPO and DPO on this machine
  distft recipes                               what is shipped
  distft plan ppo-tiny                         what would run where, and whether it fits
  distft train sft-tiny train.steps=50         train; the same command goes on where it stopped

exit status: 0 done, 1 the run failed, 2 wrong input, 3 the machine falls short, 75 stopped on request
"""
INTERRUPTED, CLOSED_PIPE = 130, 141  # as a shell counts the signals INT and PIPE
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb and returns its exit status: 0 done, 1 a failed run or a defect, 2 wrong input, 3 the machine
    falls short, 75 stopped on request, 130 interrupted from the keyboard, 141 nobody read the output to its end.
    """
    try:
        try:
            _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except SystemExit as end:  # --help, --version
        return int(end.code or 0)
    except DistftError as error:
        return _told(error)
    except KeyboardInterrupt:
        print("distft: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            return CLOSED_PIPE
        if isinstance(error, OSError) and error.errno in _FULL_DISK:
            return _told(EnvironmentFallsShort(f"the disk is full: {error}", hint="free some space and run it again"))
        return _defect(error)
    return 0


def _told(error: DistftError) -> int:
    print(f"distft: {error}", file=sys.stderr)
    return error.exit_status


def _defect(error: Exception) -> int:
    """What nobody foresaw. A run's log has the traceback and the error says so by a note; else it is shown here."""
    notes: list[str] = getattr(error, "__notes__", [])
    if not notes:
        traceback.print_exc()
    print(f"distft: a defect: {type(error).__name__}: {error}", *notes, sep="\n  ", file=sys.stderr)
    return 1


def _output_is_closed() -> bool:
    """Whether the reader of standard output has gone; then what Python would still write there goes nowhere."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # no file: replaced in this process
        return False
    poll = select.poll()
    poll.register(output, 0)
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return closed


# ---- the command line


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in the form of all our errors, and takes no abbreviations, which scripts would rely on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        hint = f"usage: {' '.join(self.format_usage().split()[1:])}"
        if "RECIPE" in message:
            hint += "\n  distft recipes lists what is shipped"
        raise UserError(message, where=self.prog.removeprefix("distft").strip(), hint=hint)

    @property
    def options(self) -> list[str]:
        return list(self._option_string_actions)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The verb and its arguments; without a verb there is no ``run``. Raises UserError with the nearest right word."""
    parser, verbs = _parsers()
    first = arguments[0] if arguments else ""
    if arguments and not first.startswith("-") and first not in verbs:
        close = nearest(first, verbs)
        hint = f"did you mean {close}? " if close else ""
        raise UserError("there is no such verb", where=first, hint=f"{hint}verbs: {', '.join(verbs)}")
    parsed, rest = parser.parse_known_args(arguments)
    unknown = [text for text in rest if text.startswith("-") or "overrides" not in parsed]
    if unknown:
        raise _unknown(unknown[0], verbs.get(first, parser), takes_overrides="overrides" in parsed)
    if "overrides" in parsed:  # argparse stops collecting them at the first option in between
        parsed.overrides = [*parsed.overrides, *rest]
    return parsed


def _run(arguments: Sequence[str]) -> None:
    parsed = parse(arguments)
    if "run" in parsed:
        parsed.run(parsed)
    else:
        _parsers()[0].print_help()


def _unknown(text: str, parser: _Parser, *, takes_overrides: bool) -> UserError:
    if not text.startswith("-"):
        return UserError("is one argument too many", where=text, hint=f"see {parser.prog} --help")
    name, _, value = text.partition("=")
    close = nearest(name, parser.options)
    if close:
        return UserError("unknown option", where=name, hint=f"did you mean {close}?")
    if takes_overrides and (value or "." in name):
        what = f"write {name.lstrip('-')}={value or '...'}"
        return UserError("keys of the recipe take no dashes", where=text, hint=what)
    return UserError("unknown option", where=name, hint=f"{parser.prog} takes: {', '.join(parser.options)}")


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser, and those of the verbs by name."""
    from distft import __version__

    parser = _Parser(prog="distft", usage="distft VERB ... | --help | --version", epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"distft {__version__}")
    verbs = parser.add_subparsers(prog="distft", metavar="VERB", parser_class=_Parser, help=argparse.SUPPRESS)

    quickstart = verbs.add_parser(
        "quickstart", description="SFT, reward model, PPO and DPO on the embedded data, on this machine"
    )
    quickstart.add_argument("--output", type=Path, default=Path("runs/quickstart"), help="folder of the four runs")
    quickstart.set_defaults(run=_quickstart)

    train = verbs.add_parser("train", description="run a recipe here, or go on where it stopped")
    _recipe_arguments(train)
    train.add_argument("--dry-run", action="store_true", help="check everything, start nothing")
    train.add_argument("--quiet", action="store_true", help="no progress display")
    train.add_argument("--json", action="store_true", help="print the outcome as JSON, and nothing else")
    train.set_defaults(run=_train)

    plan = verbs.add_parser("plan", description="which rank goes where, batch arithmetic, memory")
    _recipe_arguments(plan)
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.set_defaults(run=_plan)

    export = verbs.add_parser("export", description="a plain Hugging Face folder from a run or a checkpoint")
    export.add_argument("source", metavar="RUN_DIR_OR_CHECKPOINT", type=Path)
    export.add_argument("target", metavar="OUT", type=Path)
    export.set_defaults(run=_export)

    recipes = verbs.add_parser("recipes", description="the shipped recipes, a line each")
    recipes.add_argument("--json", action="store_true", help="print them as JSON")
    recipes.set_defaults(run=_recipes)
    listed = "\n".join(f"  {name:<12}{verb.description}" for name, verb in verbs.choices.items())
    parser.description = f"Align and fine-tune language models on clusters.\n\nverbs:\n{listed}"
    return parser, verbs.choices


def _recipe_arguments(parser: _Parser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. optimizer.learning_rate=2e-6"
    )
    parser.add_argument("--cluster", default="local", help="a shipped name or a YAML file (default: local)")


# ---- the verbs


def _quickstart(arguments: argparse.Namespace) -> None:
    from distft.launch.quickstart import quickstart

    quickstart(arguments.output)


def _train(arguments: argparse.Namespace) -> None:
    from distft.config.load import load_recipe
    from distft.launch.prepare import prepare

    prepared = prepare(load_recipe(arguments.recipe, arguments.overrides), arguments.cluster)
    name, run_dir = prepared.recipe.name, prepared.run_dir
    for warning in prepared.warnings:
        print(f"distft: warning: {warning}", file=sys.stderr)
    if arguments.dry_run:
        state = "already finished" if prepared.finished else "ready to start"
        answer = {"name": name, "run_dir": str(run_dir), "state": state, "warnings": prepared.warnings}
        print(json.dumps(answer) if arguments.json else f"{name}: {state} ({run_dir})")
        return
    from distft.launch.run import run
    from distft.launch.table import before_after

    outcome = run(prepared, quiet=arguments.quiet or arguments.json)
    if arguments.json:
        print(json.dumps(outcome.summary()))
    elif outcome.finished_before:
        print(f"{name}: already finished, the model is in {outcome.final}")
    else:
        print(before_after({name: outcome.table}), end="\n" if outcome.table else "")
        print(f"{name}: done, the model is in {outcome.final}")


def _plan(arguments: argparse.Namespace) -> None:
    from distft.config.load import load_recipe
    from distft.launch.drawing import draw
    from distft.launch.preflight import check_memory
    from distft.launch.prepare import planned

    plan = planned(load_recipe(arguments.recipe, arguments.overrides), arguments.cluster)
    print(plan.model_dump_json(indent=1) if arguments.json else draw(plan))
    check_memory(plan)


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


def run_main() -> NoReturn:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run_main()
