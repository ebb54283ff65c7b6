"""``distft recipes``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from distft.common.errors import UserError, nearest

DESCRIPTION = "the shipped recipes, pipelines and cluster files: listed, shown, copied to make them yours"
_USAGE = "distft recipes, distft recipes show NAME, or distft recipes copy NAME FILE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument(
        "words", metavar="show NAME | copy NAME FILE", nargs="*", help="print one, or copy it into a new file"
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Lists them, prints one or copies one. Raises UserError."""
    if not arguments.words:
        _list(as_json=arguments.json)
        return
    action, *rest = arguments.words
    if arguments.json or len(rest) != {"show": 1, "copy": 2}.get(action):
        close = nearest(action, ("show", "copy"))
        hint = f"did you mean {close}? {_USAGE}" if close and close != action else _USAGE
        raise UserError("is nothing to do with recipes", where=" ".join(arguments.words), hint=hint)
    text = _file(rest[0]).read_text(encoding="utf-8")
    if action == "show":
        sys.stdout.write(text)
    else:
        _write(Path(rest[1]), text)
        print(f"{rest[1]} is yours: change it, then distft plan, distft train")


def _list(*, as_json: bool) -> None:
    from distft.config.load import shipped_pipelines, shipped_recipes

    found = [*shipped_recipes(), *shipped_pipelines()]
    if as_json:
        print(json.dumps([{"name": name, "description": text} for name, text in found]))
        return
    width = max(len(name) for name, _ in found)
    for name, text in found:
        print(f"{name:<{width}}  {text}")


def _file(name: str) -> Path:
    """That of a shipped name, a cluster file's included."""
    from distft.config.cluster import cluster_file, shipped_clusters
    from distft.config.load import recipe_file

    return cluster_file(name) if name in dict(shipped_clusters()) else recipe_file(name)


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UserError("is there already", where=str(path), hint="name another file: none is overwritten") from error
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path), hint="name another file") from error
