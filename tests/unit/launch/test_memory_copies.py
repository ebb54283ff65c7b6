"""Where the attempt after a failed one begins: in memory, or on the disk. The copies are tested in tests/ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.checkpoint.coordinator import Found
from distft.checkpoint.layout import checkpoints_folder, step_name
from distft.checkpoint.manifest import Manifest
from distft.config.load import load_recipe
from distft.controller.mirror import Mirror
from distft.launch.memory_copies import newest_copy

RECIPE = load_recipe("sft-tiny", [])


class Having(Mirror):
    """A copy of step 6, whose best step is this one."""

    def __init__(self, best: int) -> None:
        self.best = best

    @property
    def begun(self) -> int:
        return 6

    def newest(self, fingerprint: str) -> Found | None:
        manifest = Manifest(6, (), {}, fingerprint, "", 1, 0.0)
        return Found(Path("memory"), 6, {"best": {"step": self.best}}, manifest, in_memory=True)


@pytest.mark.parametrize(
    ("saved", "best", "taken"),
    [((), 0, True), ((4,), 0, True), ((4, 6), 0, False), ((8,), 0, False), ((2, 4), 2, True), ((4,), 6, False)],
)
def test_it_begins_in_memory_where_that_is_newer_and_the_best_is_on_the_disk(
    tmp_path: Path, saved: tuple[int, ...], best: int, taken: bool
) -> None:
    """The best of an evaluation whose checkpoint was still being written would be a step that nobody can go back to."""
    for step in saved:
        (checkpoints_folder(tmp_path) / step_name(step)).mkdir(parents=True)
    found = newest_copy(Having(best), RECIPE, tmp_path)
    assert (found is not None) == taken
    assert newest_copy(None, RECIPE, tmp_path) is None
