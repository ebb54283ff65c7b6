"""``distft schema``."""

from __future__ import annotations

import argparse
import json

DESCRIPTION = "JSON Schema of recipes, for editors; --keys: every key with its default, as Markdown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("--keys", action="store_true", help="a table of all keys, for people")


def run(arguments: argparse.Namespace) -> None:
    """Prints one or the other."""
    from distft.config.schema import recipe_keys, recipe_schema

    if not arguments.keys:
        print(json.dumps(recipe_schema(), indent=1))
        return
    print("| key | values | default | what it is |\n|---|---|---|---|")
    for key in recipe_keys():
        default = f"`{key.default}`" if key.default else "must be given"
        print(f"| `{key.name}` | {_cell(key.type)} | {_cell(default)} | {_cell(key.description)} |")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
