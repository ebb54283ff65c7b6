"""What may be typed: the verbs, their arguments, and what is said where something else was typed. No verb runs here,
and nothing heavy is imported: ``distft --help`` must answer at once."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from distft.common.errors import UserError, nearest
from distft.verbs import (
    bisect,
    calibrate,
    cancel,
    chat,
    checkpoints,
    collect,
    compare,
    completion,
    data,
    doctor,
    eval,
    export,
    fetch,
    generate,
    logs,
    plan,
    quickstart,
    recipes,
    replay,
    report,
    schema,
    status,
    submit,
    sync,
    train,
)
from distft.verbs.speaking import SAMPLING

# What others call them.
MEANT = {
    "run": "train", "start": "train", "fit": "train", "finetune": "train", "resume": "train", "continue": "train",
    "ps": "status", "watch": "status", "tail": "logs", "stop": "cancel", "kill": "cancel", "predict": "generate",
    "infer": "generate", "sample": "generate", "test": "eval", "score": "eval", "diff": "compare", "list": "recipes",
    "ls": "recipes", "init": "recipes", "new": "recipes", "download": "fetch", "pull": "fetch", "merge": "export",
    "convert": "export", "push": "export", "label": "collect", "check": "doctor", "inspect": "data", "show": "report",
    "upload": "sync", "verify": "checkpoints", "keys": "schema", "sweep": "submit", "demo": "quickstart",
}  # fmt: skip


class Verb(Protocol):
    """What each file in ``verbs`` has."""

    __name__: str
    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """What may be typed after it."""
        ...

    def run(self, arguments: argparse.Namespace) -> int | None:
        """Runs it; its exit status, None for 0."""
        ...


VERBS: tuple[Verb, ...] = (
    quickstart,
    train,
    plan,
    data,
    fetch,
    generate,
    chat,
    eval,
    collect,
    export,
    checkpoints,
    replay,
    recipes,
    schema,
    submit,
    status,
    logs,
    cancel,
    report,
    compare,
    bisect,
    sync,
    doctor,
    calibrate,
    completion,
)  # as listed

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
    """The ``verb``, its ``run`` and its arguments; no ``verb`` where none is typed.

    Raises UserError with the nearest right word.
    """
    parser, verbs = parsers()
    if arguments and arguments[0] == "help":
        arguments = [*arguments[1:2], "--help"]
    first = arguments[0] if arguments else ""
    if arguments and not first.startswith("-") and first not in verbs:
        if first.endswith((".yaml", ".yml")):
            raise UserError("is a file, not a verb", where=first, hint=f"distft train {shlex.join(arguments)}")
        close = MEANT.get(first) or nearest(first, verbs)
        hint = f"did you mean {close}? " if close else ""
        raise UserError("there is no such verb", where=first, hint=f"{hint}verbs: {', '.join(verbs)}")
    parsed, rest = parser.parse_known_args(arguments)
    unknown = [text for text in rest if text.startswith("-") or "overrides" not in parsed]
    if unknown:
        following = [*arguments[list(arguments).index(unknown[0]) + 1 :], "-"][0]
        value = "" if following.startswith("-") else following  # of an option that takes one
        raise _unknown(unknown[0], value, verbs.get(first, parser), parsed)
    if "overrides" in parsed:  # argparse stops collecting them at the first option in between
        parsed.overrides = [*parsed.overrides, *rest]
    return parsed


def _unknown(text: str, following: str, parser: Parser, parsed: argparse.Namespace) -> UserError:
    if not text.startswith("-"):
        return UserError("is one argument too many", where=text, hint=f"see {parser.prog} --help")
    name, _, value = text.partition("=")
    key = name.lstrip("-").replace("-", "_")
    sampling = "overrides" in parsed and key in SAMPLING.split()
    if sampling or ("recipe" in parsed and _key_of_recipe(key)):
        return _no_dashes(text, key if sampling else _key_of_recipe(key), value or following)
    close = nearest(name.lstrip("-"), [option.lstrip("-") for option in parser.options])
    if close:
        return UserError("unknown option", where=name, hint=f"did you mean {'-' if len(close) == 1 else '--'}{close}?")
    if "overrides" in parsed and (value or "." in name):
        return _no_dashes(text, key, value or following)
    return UserError("unknown option", where=name, hint=f"{parser.prog} takes: {', '.join(parser.options)}")


def _no_dashes(text: str, key: str, value: str) -> UserError:
    return UserError("keys of the recipe take no dashes", where=text, hint=f"write {key}={value or '...'}")


def _key_of_recipe(word: str) -> str:
    from distft.config.problems import key_meant  # takes a while, and is for mistakes alone

    return key_meant(word)


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and those of the verbs by name."""
    from distft import __version__

    parser = Parser(prog="distft", usage="distft VERB ... | --help | --version", epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"distft {__version__}")
    choices = parser.add_subparsers(prog="distft", metavar="VERB", parser_class=Parser, help=argparse.SUPPRESS)
    for module in VERBS:
        name = module.__name__.rpartition(".")[2]
        verb = choices.add_parser(name, description=module.DESCRIPTION)
        module.add_arguments(verb)
        verb.set_defaults(verb=name, run=module.run)
    choices.choices["completion"].set_defaults(parsers=choices.choices)  # it tells of them all
    listed = "\n".join(f"  {name:<12}{verb.description}" for name, verb in choices.choices.items())
    parser.description = f"Align and fine-tune language models on clusters.\n\nverbs:\n{listed}"
    return parser, choices.choices
