"""What may be typed: the verbs, their arguments, and what is said where something else was typed. No verb runs here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from distft.common.errors import UserError, nearest

EXAMPLES = """\
first steps:
  distft quickstart                                 SFT, reward model, PPO and DPO on this machine
  distft recipes                                    what is shipped
  distft plan ppo-tiny                              what would run where, and whether it fits
  distft train sft-tiny train.steps=50              train; the same command goes on where it stopped
  distft submit slurm ppo-tiny --cluster slurm-cpu  the same as a job; then status, logs, cancel

exit status: 0 done, 1 the run failed, 2 wrong input, 3 the machine falls short, 75 stopped on request
"""


class Parser(argparse.ArgumentParser):
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
    """The ``verb`` and its arguments; no ``verb`` where none is typed. Raises UserError with the nearest right word."""
    parser, verbs = parsers()
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


def _unknown(text: str, parser: Parser, *, takes_overrides: bool) -> UserError:
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


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and those of the verbs by name."""
    from distft import __version__

    parser = Parser(prog="distft", usage="distft VERB ... | --help | --version", epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"distft {__version__}")
    verbs = parser.add_subparsers(prog="distft", metavar="VERB", parser_class=Parser, help=argparse.SUPPRESS)

    _run_verbs(verbs)
    _job_verbs(verbs)
    for name, verb in verbs.choices.items():
        verb.set_defaults(verb=name)
    listed = "\n".join(f"  {name:<12}{verb.description}" for name, verb in verbs.choices.items())
    parser.description = f"Align and fine-tune language models on clusters.\n\nverbs:\n{listed}"
    return parser, verbs.choices


def _run_verbs(verbs: Any) -> None:
    quickstart = verbs.add_parser(
        "quickstart", description="SFT, reward model, PPO and DPO on the embedded data, on this machine"
    )
    quickstart.add_argument("--output", type=Path, default=Path("runs/quickstart"), help="folder of the four runs")
    quickstart.add_argument("--cluster", default="local", help="a shipped name or a YAML file (default: local)")

    train = verbs.add_parser("train", description="run a recipe here, or go on where it stopped")
    _recipe_arguments(train)
    train.add_argument("--dry-run", action="store_true", help="read the rows, look at the models, start nothing")
    train.add_argument("--quiet", action="store_true", help="no progress display")
    train.add_argument("--json", action="store_true", help="print the outcome as JSON, and nothing else")

    plan = verbs.add_parser("plan", description="which rank goes where, batch arithmetic, memory")
    _recipe_arguments(plan)
    plan.add_argument("--nodes", type=int, metavar="N", help="as if the cluster file said so many nodes")
    plan.add_argument("--must-fit", action="store_true", help="exit 3 where it is not known whether it fits")
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")

    export = verbs.add_parser("export", description="a plain Hugging Face folder from a run or a checkpoint")
    export.add_argument("source", metavar="RUN_DIR_OR_CHECKPOINT", type=Path)
    export.add_argument("target", metavar="OUT", type=Path)

    recipes = verbs.add_parser("recipes", description="the shipped recipes, a line each")
    recipes.add_argument("--json", action="store_true", help="print them as JSON")


def _job_verbs(verbs: Any) -> None:
    submit = verbs.add_parser("submit", description="train as a job of Slurm, or on a Ray cluster that runs already")
    submit.add_argument("target", choices=("slurm", "ray"), help="who runs the job")
    _recipe_arguments(submit, cluster=None)
    submit.add_argument("--dry-run", action="store_true", help="print what would be submitted, submit nothing")
    submit.add_argument("--json", action="store_true", help="print the job as JSON, and do not follow it")
    submit.add_argument(
        "--follow", action=argparse.BooleanOptionalAction, default=None,
        help="show what the run logs and end with its exit status (default: of Ray jobs)",
    )  # fmt: skip
    submit.add_argument(
        "--after", action="append", default=[], metavar="ID", help="Slurm: start after this job ended well"
    )
    submit.add_argument("--array", metavar="SPEC", help="Slurm: an array of jobs, 1-8%%2 say; {task} is its number")
    submit.add_argument(
        "--sweep", action="append", default=[], metavar="KEY=A,B",
        help="Slurm: an array with a task for each value; again for more keys: all combinations",
    )  # fmt: skip
    submit.add_argument(
        "--slurm", dest="slurm_options", action="append", default=[], metavar="KEY=VALUE",
        help="in place of the cluster file's: time, partition, nodelist, exclude, mail_user, mail_type, comment, ...",
    )  # fmt: skip
    submit.add_argument(
        "--replace", action="store_true", help="stop the run's job that has not ended; the new one goes on from there"
    )

    status = verbs.add_parser("status", description="what a run and its job are doing, or how they ended")
    status.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    status.add_argument("--json", action="store_true", help="print it as JSON")

    logs = verbs.add_parser("logs", description="what a run's processes log, in the order of time")
    logs.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    logs.add_argument("--follow", "-f", action="store_true", help="until the run ends; then with its exit status")
    logs.add_argument("--role", help="this role's only, or `driver` (default: the driver and all roles)")
    logs.add_argument("--rank", default="0", help="this rank's, or `all` (default: 0)")
    logs.add_argument("-n", "--lines", type=int, default=30, help="how many of those that are there (default: 30)")

    cancel = verbs.add_parser("cancel", description="stop a run with a checkpoint; a second time: at once")
    cancel.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    cancel.add_argument("--now", action="store_true", help="at once, without a checkpoint")

    doctor = verbs.add_parser("doctor", description="is everything there that a run needs, on every node?")
    doctor.add_argument("--cluster", default="local", help="a shipped name or a YAML file (default: local)")
    doctor.add_argument(
        "--recipe", dest="planned", metavar="RECIPE", help="check room for its checkpoints, where it writes them"
    )
    doctor.add_argument("--folder", type=Path, help="the folder that all nodes share (default: the recipe's, or this)")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")


def _recipe_arguments(parser: Parser, cluster: str | None = "local") -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. optimizer.learning_rate=2e-6"
    )
    default = f" (default: {cluster})" if cluster else ""
    parser.add_argument("--cluster", default=cluster, help=f"a shipped name or a YAML file{default}")
