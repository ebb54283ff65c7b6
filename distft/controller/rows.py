"""Getting the rows ready, however many there are: outside any deadline, with the user told how far it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from distft.clients.data_group import DataGroup
from distft.common.errors import StoppedOnRequest, UserError
from distft.config.data import Source
from distft.config.recipe import Recipe
from distft.controller.stop_flag import StopFlag
from distft.tracking.tracker import Tracker

# The data worker works for so long at a time, and then says how far it is: a hung one is found, a busy one is not.
SLICE_S: Final = 10.0
log = logging.getLogger(__name__)


def prepare_rows(
    data: DataGroup, tracker: Tracker, stop: StopFlag, check: Callable[[Mapping[str, str]], None]
) -> Mapping[str, str]:
    """Has the data worker tokenise what is not tokenised yet. Returns the hash of each source's content by its key.

    ``check`` is given these before anything is tokenised. Raises StoppedOnRequest where a stop was asked for: what is
    done is kept.
    """
    contents: Mapping[str, str] | None = None
    while True:
        answer = data.prepare_rows(SLICE_S).result()
        if contents is None and answer.contents is not None:
            contents = answer.contents
            check(contents)
        if answer.done:
            assert contents is not None
            return contents
        if answer.doing:
            tracker.phase(answer.doing)
        if stop.is_set():
            raise StoppedOnRequest("stopped while rows were tokenised: the same command goes on there")


def require_same_data(recipe: Recipe, step: int, former: Mapping[str, str], now: Mapping[str, str]) -> None:
    """The sources hold what they held when the checkpoint of ``step`` was written. UserError, or where
    ``checkpoint.changed_data`` accepts it a warning, for the first that does not: the run would go on at its old
    position in other rows."""
    changed = [key for key in now if key in former and former[key] != now[key]]
    if not changed:
        return
    what = f"{_source(recipe, changed[0]).path} is not what it was when the checkpoint of step {step} was written"
    if recipe.checkpoint.changed_data == "accept":
        log.warning("%s: %s; going on at the old position in the rows that are there now", changed[0], what)
        return
    raise UserError(
        what,
        where=f"{changed[0]}.path",
        hint="put the former rows back; or go on at the old position in the new ones: checkpoint.changed_data=accept; "
        "or start again in this folder: checkpoint.resume=never",
    )


def _source(recipe: Recipe, key: str) -> Source:
    _, name, number = key.split(".")
    source: Source = getattr(recipe.data, name)[int(number)]
    return source
