"""A judge, as it is named on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distft.common.errors import UserError

if TYPE_CHECKING:
    from distft.launch.judges import JudgeNamed


def add_judge(parser: argparse.ArgumentParser, does: str) -> None:
    """Who it is, and by what it judges. ``does``: what it is for."""
    parser.add_argument(
        "--judge", metavar="MODEL|URL", help=f"a language model that {does}; of an OpenAI-compatible endpoint "
        "the URL: http://127.0.0.1:8000/v1",
    )  # fmt: skip
    parser.add_argument("--judge-model", metavar="NAME", help="what the endpoint calls the model")
    parser.add_argument(
        "--judge-key", metavar="VARIABLE", help="the environment variable that holds the endpoint's token"
    )
    parser.add_argument(
        "--judge-deadline", type=float, metavar="SECONDS", help="of a question to an endpoint (default: 300)"
    )
    parser.add_argument(
        "--criterion", metavar="TEXT", help="by what answers are judged (default: the recipe's evaluation.criterion)"
    )


def require_what_they_need(arguments: argparse.Namespace, but: Sequence[str] = ()) -> None:
    """Every option that says nothing without another has it, ``but`` those. Raises UserError."""
    from distft.config.eval_stage import NEEDS_ANOTHER, option_of

    for key, other, what, give in NEEDS_ANOTHER:
        said = None if key in but else getattr(arguments, key, None)
        if said is not None and getattr(arguments, other) is None:
            where = " ".join(f"{option_of(key)} {one}" for one in (said if isinstance(said, list) else [said]))
            raise UserError(what, where=where, hint=f"--{other} {give}")


def judge_of(arguments: argparse.Namespace) -> JudgeNamed | None:
    """The judge, if one is named. Raises UserError where something is said of one that is not."""
    require_what_they_need(arguments, but=("criterion",))  # people label by it, too
    if arguments.judge is None:
        return None
    from distft.launch.judges import JudgeNamed

    deadline = arguments.judge_deadline
    if deadline is not None and not 0 < deadline < float("inf"):
        raise UserError("must be above 0", where=f"--judge-deadline {deadline:g}")
    return JudgeNamed(
        arguments.judge, arguments.judge_model, arguments.judge_key, deadline, arguments.criterion or None
    )
