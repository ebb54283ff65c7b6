"""A checkpoint on its way: begun, written by all ranks, committed by the coordinator (RELIABILITY's commit protocol).

save:        begin ─► write ─► commit                   training waits for all of it
begin_save:  begin ─► copy ─► ... steps ... ─► finish ─► commit     it waits for the copy
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distft.checkpoint.coordinator import Coordinator
from distft.checkpoint.manifest import FileRecord, NotWritten
from distft.checkpoint.role_layout import RoleLayout, layout_of
from distft.clients.model_group import ModelGroup
from distft.config.recipe import Recipe
from distft.config.roles import kept_roles
from distft.groups.handles import Call, together

Files = tuple[FileRecord | NotWritten, ...]


@dataclass
class Saving:
    """The checkpoint of ``step``: the ``groups`` that write it, the controller's ``state`` of then, what has been
    reported of its ``files``, and the ``seconds`` that it has taken, those of writing in the background among them."""

    step: int
    staging: Path
    groups: Sequence[ModelGroup]
    coordinator: Coordinator
    state: Mapping[str, Any]
    layouts: Mapping[str, RoleLayout]
    files: list[FileRecord | NotWritten] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def begin(
        cls, recipe: Recipe, groups: Mapping[str, ModelGroup], coordinator: Coordinator, step: int,
        state: Mapping[str, Any],
    ) -> Saving:  # fmt: skip
        """A staging folder for all groups whose models change. Raises SaveFailed, LeaseLost."""
        roles = kept_roles(recipe)
        layouts = {role: layout_of(recipe, role, groups[role].ranks.num_ranks) for role in roles}
        staging = coordinator.begin(step)
        return cls(step, staging, [groups[role] for role in roles], coordinator, state, layouts)

    def write(self, beside: Sequence[Call[Files]]) -> None:
        """Has all ranks write their files, and starts what is to be written ``beside`` them."""
        started = time.perf_counter()
        written = together(*(group.save(str(self.staging)) for group in self.groups), *beside)
        self._take(written, time.perf_counter() - started)

    def copy(self, beside: Sequence[Call[Files]]) -> None:
        """As ``write``, but the ranks' files are written by threads of theirs: ``finish`` waits for these."""
        started = time.perf_counter()
        together(*(group.begin_save(str(self.staging)) for group in self.groups))
        self._take(together(*beside), time.perf_counter() - started)

    def ended(self) -> bool:
        """Whether every rank has written its files, or could not."""
        ended: tuple[bool, ...] = together(*(group.save_ended() for group in self.groups))
        return all(ended)

    def finish(self) -> None:
        """Waits for what ``copy`` began."""
        found = together(*(group.finish_save() for group in self.groups))
        self._take([saved.files for saved in found], max(saved.seconds for saved in found))

    def commit(self) -> Path:
        """Makes it a checkpoint. Raises as ``Coordinator.commit``."""
        started = time.perf_counter()
        path = self.coordinator.commit(self.step, self.files, self.state, self.layouts)
        self.seconds += time.perf_counter() - started
        return path

    def _take(self, written: Sequence[Files], seconds: float) -> None:
        self.files += [record for records in written for record in records]
        self.seconds += seconds
