"""Sampling settings by the recipe's names, for the verbs that sample outside a run: ``temperature=0.7``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import ValidationError

from distft.config.overrides import apply_overrides, parse_override
from distft.config.problems import from_validation, report
from distft.config.section import Section
from distft.config.training import Rollout
from distft.config.yaml_file import Tree


class _Settings(Section):
    rollout: Rollout


def rollout_settings(start: Rollout, overrides: Sequence[str]) -> Rollout:
    """``start`` with ``key=value`` written over it; ``rollout.key=value``, as in a recipe, is the same.

    Raises one UserError that lists everything wrong, in a recipe's words.
    """
    parsed = [parse_override(text) for text in overrides]
    within = [one if len(one.path) > 1 else replace(one, path=("rollout", *one.path)) for one in parsed]
    tree = Tree({"rollout": start.model_dump()})
    apply_overrides(tree, within)
    try:
        return _Settings.model_validate(tree.data).rollout
    except ValidationError as error:
        raise report(from_validation(error, tree.data), tree) from None
