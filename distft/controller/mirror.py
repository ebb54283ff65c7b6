"""Copies of all states in the nodes' memory, every ``checkpoint.memory_every`` steps: where the next attempt begins.

copy:     all ranks write their files into memory ─► training goes on; keepers hash them and send them to the next node
settle:   ... before the next copy, or when the attempt has failed: a whole copy takes the place of the one before
newest:   when an attempt has failed: what the keepers that are left have as it was
begin:    the nodes of the next attempt get of it what their ranks are to read
write:    where none follows, it becomes a checkpoint on the disk

So at most two copies exist, of which one is whole. Which it is, and the controller's state of then, only the driver
knows: with its process they are lost, as with two nodes that follow each other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distft.checkpoint.coordinator import Coordinator, Found
from distft.checkpoint.layout import step_name
from distft.checkpoint.manifest import FileRecord, Manifest, NotWritten
from distft.checkpoint.memory_copy import MemoryCopy, needed_on, ring, sends
from distft.checkpoint.role_layout import layout_of
from distft.clients.model_group import ModelGroup
from distft.common.errors import RunFailed
from distft.config.recipe import Recipe
from distft.config.roles import kept_roles
from distft.groups.handles import Call, Group, together
from distft.groups.keepers import Keepers

log = logging.getLogger(__name__)

Tell = Callable[..., None]
Beside = Sequence[Call[tuple[FileRecord | NotWritten, ...]]]


@dataclass(frozen=True)
class _Making:
    """A copy whose files the ranks have written: ``paths`` by node, and the keepers' answers that are waited for."""

    copy: MemoryCopy
    paths: Mapping[str, Sequence[str]]
    sealing: Mapping[str, Any]


class Mirror:
    """Of one run, over its attempts. ``tell`` writes an event."""

    def __init__(self, keepers: Keepers, tell: Tell) -> None:
        self._keepers, self._tell = keepers, tell
        self._groups: Mapping[str, Group] = {}
        self._attempt = 0
        self._making: _Making | None = None
        self._whole: MemoryCopy | None = None
        self._held: Mapping[str, Sequence[str]] = {}

    @property
    def step(self) -> int:
        """The step of the copy that is whole; 0: there is none."""
        return self._whole.step if self._whole else 0

    @property
    def begun(self) -> int:
        """The step of the newest copy, whole or in the making; 0: there is none."""
        return self._making.copy.step if self._making else self.step

    def begin(self, recipe: Recipe, groups: Mapping[str, Group], attempt: int, found: Found | None) -> None:
        """An attempt of these groups: their nodes get keepers, and of a copy that was ``found`` what their ranks are to
        read. Raises RunFailed, and then there is no copy any more."""
        self._groups, self._attempt, self._making = groups, attempt, None
        self._keepers.start_on(self._nodes)
        if found is not None and found.in_memory:
            self._hand_out(recipe, found)
        else:
            self._whole = None
        self._keepers.leave(self._nodes)
        self._keepers.keep_only(self._whole.name if self._whole else "")

    def copy(self, recipe: Recipe, models: Mapping[str, ModelGroup], step: int, state: Mapping[str, Any],
             beside: Callable[[str], Beside]) -> None:  # fmt: skip
        """Has all ranks write their files, and what is to be written ``beside`` them. What fails is told, and the copy
        before stays."""
        self.settle()
        refused = [f"{node}: {why}" for node, why in self._keepers.ready(self._nodes).items()]
        if refused:
            self._failed(step, refused)
            return
        name = f"{step_name(step)}-{self._attempt}"
        folder, roles = str(self._keepers.folder / name), kept_roles(recipe)
        written = together(*(models[role].copy(folder) for role in roles))
        more = together(*beside(folder))
        paths: dict[str, list[str]] = {}
        for role, reports in zip(roles, written, strict=True):
            for worker, report in zip(self._groups[role].workers, reports, strict=True):
                if isinstance(report, NotWritten):
                    refused.append(report.cause)
                else:
                    paths.setdefault(worker.node_id, []).extend(report)
        for record in (record for records in more for record in records):
            if isinstance(record, NotWritten):
                refused.append(record.cause)
            else:
                paths.setdefault(self._groups["data"].workers[0].node_id, []).append(record.path)
        if refused:
            self._failed(step, refused)
            self._keepers.drop(name)
            return
        layouts = {role: layout_of(recipe, role, models[role].ranks.num_ranks) for role in roles}
        sealing = self._keepers.seal(name, paths, ring(self._nodes))
        self._making = _Making(MemoryCopy(name, step, state, layouts, {}), paths, sealing)

    def settle(self) -> None:
        """Waits for what the keepers do with the last copy, if they do something; where it is whole it is the one that
        counts."""
        if self._making is None:
            return
        making, self._making = self._making, None
        answers, step = self._keepers.sealed(making.sealing), making.copy.step
        files = {record.path: record for sealed, _ in answers.values() if sealed for record in sealed.files}
        if set(files) != {path for those in making.paths.values() for path in those}:
            self._failed(
                step, [f"{node}: {why}" for node, (_, why) in answers.items() if why] or ["a keeper has ended"]
            )
            self._keepers.drop(making.copy.name)
            return
        alone = [f"{node}: {sealed.not_sent}" for node, (sealed, _) in answers.items() if sealed and sealed.not_sent]
        if alone:
            log.warning("the copy of step %d in memory is on one node only: %s", step, "; ".join(alone))
        if self._whole is not None:
            self._keepers.drop(self._whole.name)
        self._whole = replace(making.copy, files=files)

    def newest(self, fingerprint: str) -> Found | None:
        """The copy to go on from after a failure, its files as they were on the nodes that are left; None where there
        is none."""
        self.settle()
        copy = self._whole
        if copy is None:
            return None
        self._held = self._keepers.whole(copy.name, {path: record.sha256 for path, record in copy.files.items()})
        missing = set(copy.files) - {path for paths in self._held.values() for path in paths}
        if missing:
            self._failed(copy.step, [f"no node that is left has {path} as it was" for path in sorted(missing)[:3]])
            self.forget()
            return None
        manifest = Manifest(copy.step, tuple(copy.files.values()), copy.layouts, fingerprint, "", self._attempt,
                            time.time())  # fmt: skip
        folder = self._keepers.folder / copy.name
        return Found(folder, copy.step, dict(copy.progress), manifest, in_memory=True)

    def _hand_out(self, recipe: Recipe, found: Found) -> None:
        nodes = {role: [worker.node_id for worker in group.workers] for role, group in self._groups.items()}
        then = found.manifest.layouts
        now = {role: layout_of(recipe, role, self._groups[role].num_ranks) for role in then}
        needs: dict[str, list[str]] = {node: [] for node in self._nodes}
        for record in found.manifest.files:
            for node in needed_on(record.path, then, now, nodes):
                needs[node].append(record.path)
        wrong = [f"{node}: {why}" for node, why in self._keepers.ready(self._nodes).items()]
        name = found.path.name
        wrong = wrong or self._keepers.send(name, sends(needs, self._held)) or self._keepers.missing(name, needs)
        if wrong:
            self.forget()
            raise RunFailed(f"the copy of step {found.step} in memory could not be handed out: {'; '.join(wrong)}",
                            kind="death")  # fmt: skip

    def write(self, found: Found, coordinator: Coordinator) -> Path:
        """Makes the copy that was just ``found`` a checkpoint on the disk. Raises SaveFailed, LeaseLost."""
        staging = coordinator.begin(found.step)
        paths: dict[str, list[str]] = {}
        for (source, _), those in sends({"": [record.path for record in found.manifest.files]}, self._held).items():
            paths[source] = those
        files = self._keepers.write(found.path.name, paths, staging)
        return coordinator.commit(found.step, files, found.progress, found.manifest.layouts)

    def forget(self) -> None:
        """What has been copied counts no more: its nodes, or their Ray, are gone."""
        self._making = self._whole = None
        self._keepers.close()

    @property
    def _nodes(self) -> list[str]:
        """Of all ranks, in their order."""
        return list(dict.fromkeys(worker.node_id for group in self._groups.values() for worker in group.workers))

    def _failed(self, step: int, causes: Sequence[str]) -> None:
        cause = "; ".join(causes)
        log.error("the copy of step %d in memory failed: %s; the run goes on", step, cause)
        self._tell("memory_copy_failed", step=step, cause=cause)
