"""``distft recipes``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from distft.common.errors import UserError, nearest

DESCRIPTION = "the shipped recipes, listed; they and the cluster files shown, or copied to be yours"
_USAGE = "distft recipes, distft recipes show NAME, or distft recipes copy NAME FILE"
_WANTED = {"show": ("NAME",), "copy": ("NAME", "FILE")}


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
    _require_words(action, rest, as_json=arguments.json)
    text = _file(rest[0]).read_text(encoding="utf-8")
    if action == "show":
        sys.stdout.write(text)
    else:
        _write(Path(rest[1]), text)
        used = f"--cluster {rest[1]}" if _is_cluster(rest[0]) else "distft plan, distft train"
        print(f"{rest[1]} is yours: change it, then {used}")


def _require_words(action: str, rest: Sequence[str], *, as_json: bool) -> None:
    typed = " ".join([action, *rest])
    if action not in _WANTED:
        close = nearest(action, _WANTED)
        hint = f"did you mean {close}? {_USAGE}" if close else _USAGE
        if _is_shipped(action):
            hint = f"distft recipes show {action} prints it, distft recipes copy {action} FILE makes it yours"
        raise UserError("is nothing to do with recipes", where=typed, hint=hint)
    if missing := _WANTED[action][len(rest) :]:
        raise UserError(
            f"no {' and no '.join(missing)} is given", where=f"recipes {typed}", hint=_example(action, rest)
        )
    if further := rest[len(_WANTED[action]) :]:
        raise UserError("is more than is asked for", where=" ".join(further), hint=_USAGE)
    if as_json:
        raise UserError("is of the list alone", where="--json", hint=_USAGE)


def _example(action: str, rest: Sequence[str]) -> str:
    if not rest:
        return f"for example distft recipes {action} sft-tiny{' mine.yaml' if action == 'copy' else ''}"
    return f"for example distft recipes {action} {rest[0]} mine.yaml"


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
    from distft.config.cluster import cluster_file
    from distft.config.load import recipe_file

    return cluster_file(name) if _is_cluster(name) else recipe_file(name)


def _is_shipped(name: str) -> bool:
    from distft.config.cluster import shipped_clusters
    from distft.config.load import shipped_pipelines, shipped_recipes

    return name in dict([*shipped_recipes(), *shipped_pipelines(), *shipped_clusters()])


def _is_cluster(name: str) -> bool:
    """Whether a name is a cluster file's, or nearer to one than to a recipe's."""
    from distft.config.cluster import shipped_clusters
    from distft.config.load import shipped_pipelines, shipped_recipes

    clusters = dict(shipped_clusters())
    return nearest(name, [*dict(shipped_recipes()), *dict(shipped_pipelines()), *clusters]) in clusters


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UserError("is there already", where=str(path), hint="name another file: none is overwritten") from error
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path), hint="name another file") from error
