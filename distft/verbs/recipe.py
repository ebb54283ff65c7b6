"""What the verbs that take a recipe have in common."""

from __future__ import annotations

import argparse


def add_recipe(parser: argparse.ArgumentParser, cluster: str | None = "local") -> None:
    """The recipe, its overrides, and the cluster, ``cluster`` unless said otherwise."""
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. optimizer.learning_rate=2e-6"
    )
    default = f" (default: {cluster})" if cluster else ""
    parser.add_argument("--cluster", default=cluster, help=f"a shipped name or a YAML file{default}")
