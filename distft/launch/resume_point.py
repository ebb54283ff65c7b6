"""The checkpoint that a run goes on from, and whether its rows are still those. Only reads, so that a dry run decides
what the run will.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from distft.checkpoint.coordinator import Found, named_checkpoint
from distft.checkpoint.role_layout import layout_of
from distft.config.recipe import Recipe
from distft.controller.rows import require_same_data
from distft.data.fingerprint import contents_of_files
from distft.data.store import store_folder
from distft.launch.run_folder import fingerprint
from distft.planning.plan import Plan

log = logging.getLogger(__name__)


def resume_point(recipe: Recipe, newest: Callable[[], Found | None]) -> Found | None:
    """What ``checkpoint.resume`` asks for; None: from the beginning. ``newest`` finds the run folder's newest.

    Raises UserError for a checkpoint that cannot be used.
    """
    resume = recipe.checkpoint.resume
    if resume == "never":
        return None
    found = newest() if resume == "auto" else named_checkpoint(Path(resume))
    if found is None:
        return None
    if resume != "auto" and found.manifest.fingerprint != fingerprint(recipe):
        log.warning("%s was written by another recipe than this one", found.path)
    return found


def changed_layouts(recipe: Recipe, plan: Plan, found: Found) -> dict[str, str]:
    """What the run goes on with in another way than the checkpoint was written, by role, as it was and is."""
    now = {role: layout_of(recipe, role, plan.group_of(role).num_ranks) for role in found.manifest.layouts}
    return {role: f"{then} -> {now[role]}" for role, then in found.manifest.layouts.items() if then != now[role]}


def check_files(recipe: Recipe, found: Found | None) -> None:
    """``check_data`` for the sources that are files: before anything is started or written, not when it is."""
    if found is not None and recipe.checkpoint.changed_data != "accept":
        store = store_folder(recipe.data.cache_dir, recipe.output_dir)
        check_data(recipe, found, contents_of_files(recipe.data, store))


def check_data(recipe: Recipe, found: Found | None, now: Mapping[str, str]) -> None:
    """A checkpoint is gone on from in the rows that it was written in; one of another recipe may have had others.

    ``now``: the hash of each source's content by its key. Raises UserError.
    """
    if found is not None and found.manifest.fingerprint == fingerprint(recipe):
        require_same_data(recipe, found.step, found.progress.get("data", {}), now)
