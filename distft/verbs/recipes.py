"""``distft recipes``."""

from __future__ import annotations

import argparse
import json

DESCRIPTION = "the shipped recipes and pipelines, a line each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("--json", action="store_true", help="print them as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Lists them."""
    from distft.config.load import shipped_pipelines, shipped_recipes

    found = [*shipped_recipes(), *shipped_pipelines()]
    if arguments.json:
        print(json.dumps([{"name": name, "description": text} for name, text in found]))
        return
    width = max(len(name) for name, _ in found)
    for name, text in found:
        print(f"{name:<{width}}  {text}")
