"""``distft doctor``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from distft.common.errors import EnvironmentFallsShort, UserError, nearest

DESCRIPTION = "is everything there that a run needs, on every node?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("--cluster", help="a shipped name or a YAML file (default: local)")
    parser.add_argument(
        "--recipe", dest="planned", metavar="RECIPE", help="check room for its checkpoints, where it writes them"
    )
    parser.add_argument("--folder", type=Path, help="the folder that all nodes share (default: the recipe's, or this)")
    parser.add_argument(
        "--matrix", nargs="*", metavar="METHOD", help="instead: which methods go with which models, adapters, "
        "quantization, ZeRO stages and engines, and why others do not; of these methods (default: all)"
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the findings; the exit status says whether one of them is wrong."""
    if arguments.matrix is not None:
        return _matrix(arguments)
    from distft.doctor.examine import examine

    report = examine(arguments.cluster or "local", recipe_name=arguments.planned, folder=arguments.folder)
    print(json.dumps(report.as_json()) if arguments.json else "\n".join(report.lines()))
    return EnvironmentFallsShort.exit_status if report.wrong else 0


def _matrix(arguments: argparse.Namespace) -> int:
    from distft.config.find_method import built_in_kinds
    from distft.doctor.matrix import support_matrix

    of_machines = {"--cluster": arguments.cluster, "--recipe": arguments.planned, "--folder": arguments.folder}
    for option, said in of_machines.items():
        if said is not None:
            what = "has no effect beside --matrix, which asks what this version can do, and no machine"
            raise UserError(what, where=option, hint="distft doctor --matrix")
    for method in arguments.matrix:
        if method not in built_in_kinds():
            close = _method_of_recipe(method) or nearest(method, built_in_kinds())
            hint = f"did you mean {close}?" if close else f"one of: {', '.join(built_in_kinds())}"
            raise UserError(f"knows no method {method}", where="--matrix", hint=hint)
    matrix = support_matrix(tuple(dict.fromkeys(arguments.matrix)) or built_in_kinds())
    print(json.dumps(matrix.as_json()) if arguments.json else "\n".join(matrix.lines()))
    return 0


def _method_of_recipe(name: str) -> str:
    """The method of a shipped recipe or a YAML file; "" for what is none that can be read."""
    from distft.config.load import load_recipe, names_recipe

    try:
        return load_recipe(name).algorithm.kind if names_recipe(name) else ""
    except UserError:
        return ""
