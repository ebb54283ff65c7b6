"""The checkpoint that a run goes on from, and whether its rows are still those. Only reads, so that a dry run decides
what the run will.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from distft.checkpoint.coordinator import Found, named_checkpoint
from distft.common.errors import UserError
from distft.config.recipe import Recipe
from distft.controller.rows import require_same_data
from distft.data.fingerprint import contents_of_files
from distft.data.store import store_folder
from distft.launch.run_folder import fingerprint
from distft.planning.plan import Plan

log = logging.getLogger(__name__)


def resume_point(recipe: Recipe, plan: Plan, newest: Callable[[], Found | None]) -> Found | None:
    """What ``checkpoint.resume`` asks for; None: from the beginning. ``newest`` finds the run folder's newest.

    Raises UserError for a checkpoint that cannot be used, or was written by another number of ranks.
    """
    resume = recipe.checkpoint.resume
    if resume == "never":
        return None
    found = newest() if resume == "auto" else named_checkpoint(Path(resume))
    if found is None:
        return None
    if resume != "auto" and found.manifest.fingerprint != fingerprint(recipe):
        log.warning("%s was written by another recipe than this one", found.path)
    for role, ranks in found.manifest.world_sizes.items():
        now = plan.group_of(role).num_ranks
        if now != ranks:
            raise UserError(
                f"the checkpoint of step {found.step} was written by {ranks} {role} ranks, the plan has {now}",
                where=str(found.path),
                hint=f"set placement.{role}.ranks={ranks}",
            )
    return found


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
