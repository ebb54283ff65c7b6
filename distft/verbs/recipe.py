"""What the verbs that take a recipe have in common."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from distft.common.errors import UserError, nearest


def add_recipe(parser: argparse.ArgumentParser, cluster: str | None = "local") -> None:
    """The recipe, its overrides, and the cluster, ``cluster`` unless said otherwise."""
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. optimizer.learning_rate=2e-6"
    )
    default = f" (default: {cluster})" if cluster else ""
    parser.add_argument("--cluster", default=cluster, help=f"a shipped name or a YAML file{default}")


def add_stage_cluster(parser: argparse.ArgumentParser) -> None:
    """The clusters of single stages of a pipeline."""
    parser.add_argument(
        "--stage-cluster", action="append", default=[], metavar="STAGE=C", help="of a pipeline: another for one stage"
    )


def clusters_of(stages: Sequence[str], said: Sequence[str]) -> dict[str, str]:
    """The ``STAGE=C`` of a pipeline's stages. Raises UserError for what is none of them."""
    found = {}
    for text in said:
        stage, equals, cluster = text.partition("=")
        if not equals or not cluster or stage not in stages:
            close = nearest(stage, stages)
            hint = f"did you mean {close}={cluster or 'C'}? " if close else ""
            listed = f"stages: {', '.join(stages)}" if stages else "this recipe has none: --cluster C"
            raise UserError("names no stage and its cluster", where=f"--stage-cluster {text}", hint=f"{hint}{listed}")
        found[stage] = cluster
    return found
