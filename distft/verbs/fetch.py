"""``distft fetch``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distft.verbs.recipe import add_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from distft.launch.fetch import Wanted

DESCRIPTION = "the models and data of a recipe from the hub, onto this machine, before the network goes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    add_recipe(parser, cluster=None)
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched, and ask nobody")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Fetches what is not here yet, a line each. Raises what the first that cannot be fetched raises."""
    from distft.config.load import load_recipe
    from distft.config.pipeline import is_pipeline, load_pipeline
    from distft.launch.fetch import wanted_by, wanted_by_pipeline

    if is_pipeline(arguments.recipe):
        wanted = wanted_by_pipeline(load_pipeline(arguments.recipe, arguments.overrides))
    else:
        wanted = wanted_by(load_recipe(arguments.recipe, arguments.overrides))
    found = list(_fetched(wanted, dry_run=arguments.dry_run, as_json=arguments.json))
    if arguments.json:
        print(json.dumps(found))
    elif not found:
        print("nothing is taken from the hub")
    elif not arguments.dry_run:
        print("all is here: HF_HUB_OFFLINE=1 before distft train asks the hub for nothing more")


def _fetched(wanted: Sequence[Wanted], *, dry_run: bool, as_json: bool) -> Iterator[dict[str, Any]]:
    from distft.launch.fetch import fetch

    for one in wanted:
        was_here, folder = one.is_here, None
        if not dry_run and not (was_here and one.kind == "model"):
            if not as_json:
                print(f"{one.where}: {one.name} ...", flush=True)
            folder = fetch(one)
        state = "here already" if was_here else "would be fetched" if dry_run else "fetched"
        if not as_json:
            print(f"{one.where}: {one.name}: {state}{_where(folder)}", flush=True)
        yield {"key": one.where, "kind": one.kind, "name": one.name, "state": state}


def _where(folder: Path | None) -> str:
    """How much it is, and where it lies."""
    if folder is None:
        return ""
    from distft.tracking.progress import size_of

    return f", {size_of(sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()))} in {folder}"
