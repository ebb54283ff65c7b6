"""``train --dry-run``: what a run does before its first step and that needs no weights is done here, for good and all.

    checkpoint to go on from -> data worker's set-up: tokenizers, rows, reward functions -> models by name and size

It is the run's own code. Only Ray, the weights and the steps are left out, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from distft.checkpoint.coordinator import Found, newest_checkpoint
from distft.checkpoint.layout import checkpoints_folder
from distft.config.recipe import Recipe
from distft.config.roles import main_role
from distft.data.store import store_folder
from distft.launch.preflight import remarks
from distft.launch.prepare import Prepared
from distft.launch.resume_point import changed_layouts, check_data, resume_point
from distft.launch.starts import model_starts, role_spec, starts_of_workers
from distft.tracking.data_alarms import data_alarms

if TYPE_CHECKING:
    from distft.workers.data_worker import DataWorker
    from distft.workers.spec import Start

_SLICE_S = 1.0


def rehearse(prepared: Prepared) -> tuple[str, ...]:
    """Raises what the start of the run would raise (see ``run``). Returns warnings."""
    found = resume_point(prepared.recipe, lambda: newest_checkpoint(checkpoints_folder(prepared.run_dir)))
    changed = changed_layouts(prepared.recipe, prepared.plan, found) if found else {}
    with in_quiet(), tempfile.TemporaryDirectory(prefix="distft-") as folder:
        return (
            *(f"{role} goes on in another layout: {how}" for role, how in changed.items()),
            *_set_up(prepared.recipe, found, Path(folder)),
        )


def _set_up(recipe: Recipe, found: Found | None, folder: Path) -> Iterator[str]:
    from distft.workers.rehearsal import rehearse_model

    worker, starts = data_worker(recipe, folder)
    contents = None
    while contents is None:
        contents = worker.prepare_rows(_SLICE_S)[0].contents
    check_data(recipe, found, contents)
    loaded, _ = worker.setup()
    done = []
    for role, (start, new_head) in starts_of_workers(recipe, starts, loaded).items():
        spec, exported = role_spec(recipe, role), role == main_role(recipe)
        asked = (start, new_head, exported, spec.family, spec.model)
        if asked not in done:
            rehearse_model(spec, start, new_head=new_head, exported=exported)
            done.append(asked)
    stay = recipe.data.on_leak == "warn"
    for alarm in data_alarms(loaded.leaked, loaded.alike, loaded.drifts, stay=stay):
        yield f"{alarm.name}: {alarm.said}; {alarm.do}"
    yield from (*loaded.warnings, *remarks.on_rows(recipe, loaded.num_units))


def data_worker(recipe: Recipe, folder: Path, *, tries_out: bool = True) -> tuple[DataWorker, dict[str, Start]]:
    """The run's data worker in this process, and where its models start. ``folder`` takes what it must write: models
    from nothing, without weights, and rows where none are kept yet. ``tries_out``: see ``RunData``."""
    from distft.workers.data_worker import DataWorker

    starts = model_starts(recipe, folder)
    (folder / "init").mkdir()
    store = store_folder(recipe.data.cache_dir, recipe.output_dir)
    if not store.is_dir():  # where rows are kept already those that are added are kept too, else nothing
        store = folder / "rows"
    return DataWorker(recipe=recipe, starts=starts, weights=False, store=store, tries_out=tries_out), starts


@contextlib.contextmanager
def in_quiet() -> Iterator[None]:
    """Standard output is the verb's own: what reward functions print while they are read goes beside it. Of the
    libraries' remarks, which stand in a run's logs, only errors are shown."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.set_verbosity(before)
