"""``distft data``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from distft.verbs.recipe import add_recipe

DESCRIPTION = "what a recipe's data becomes, token by token: what is trained, where answers end, lengths"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    add_recipe(parser, cluster=None)
    parser.add_argument("--rows", type=int, default=2, metavar="N", help="rows shown token by token (default: 2)")
    parser.add_argument("--list", choices=("train", "eval", "test"), help="that list only")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write it as a page that loads nothing")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Reads the rows as a run would, and shows what it made of them. Raises what that can raise."""
    from distft.config.load import load_recipe
    from distft.launch.xray import examine
    from distft.verbs.data_table import lines

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    found = examine(recipe, only=[arguments.list] if arguments.list else [], num_shown=max(0, arguments.rows))
    if arguments.html:
        from distft.report.data_page import write_data_page

        print(write_data_page(found, arguments.html))
    elif arguments.json:
        print(json.dumps(found.as_json()))
    else:
        for line in lines(found):
            print(line)
