"""What becomes of a run's newest copy in memory when an attempt has failed: the next begins there, or none follows and
it is written to the disk."""

from __future__ import annotations

import logging
from pathlib import Path

from distft.checkpoint.coordinator import Coordinator, Found, SaveFailed
from distft.checkpoint.layout import checkpoints_folder, published
from distft.checkpoint.lease import LeaseLost
from distft.config.recipe import Recipe
from distft.controller.mirror import Mirror
from distft.launch.run_folder import fingerprint
from distft.tracking.tracker import Tracker

log = logging.getLogger(__name__)


def newest_copy(mirror: Mirror | None, recipe: Recipe, run_dir: Path) -> Found | None:
    """The copy in memory, if it is newer than every checkpoint of this run, and its best step is one of them."""
    saved = [step for step, _ in published(checkpoints_folder(run_dir))]
    newest = max(saved, default=0)
    if mirror is None or mirror.begun <= newest:
        return None
    found = mirror.newest(fingerprint(recipe))
    if found is None:
        return None
    return found if found.step > newest and found.progress["best"]["step"] in (0, *saved) else None


def write_copy(
    mirror: Mirror | None, recipe: Recipe, run_dir: Path, coordinator: Coordinator, tracker: Tracker
) -> None:
    """Makes the newest copy in memory a checkpoint, where it is newer than all of those. What fails is said: the run
    ends for another reason."""
    found = newest_copy(mirror, recipe, run_dir)
    if mirror is None or found is None:
        return
    try:
        path = mirror.write(found, coordinator)
    except (SaveFailed, LeaseLost) as error:
        log.error("the copy in memory of step %d could not be written: %s", found.step, error)
        return
    tracker.event("checkpoint", step=found.step, path=str(path))
    log.warning("no attempt follows: the copy in memory of step %d has become a checkpoint", found.step)
