"""A small Ray actor on every node of a run that keeps files in the node's memory, and the driver's asking of them.

Keepers outlive the attempts of a run, and so the ranks that wrote the files. A file travels from keeper to keeper in
pieces. Who dies loses what it kept; the others, and the run, go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distft.checkpoint.manifest import FileRecord, NotWritten, record_files, safe_path
from distft.common.files import sha256_file
from distft.groups.memory_folder import MemoryFolder, memory_path
from distft.groups.worker_group import ended_servers

log = logging.getLogger(__name__)

PIECE = 8 * 2**20  # bytes of a file that are on their way at once, twice
_SLOWER_S = 2.0  # by which one keeper may be slower than another that had the same to do


@dataclass(frozen=True)
class Sealed:
    """What a keeper found of the files of its node. ``not_sent``: why the next node does not have them, too."""

    files: tuple[FileRecord, ...]
    not_sent: str = ""


class Keeper:
    """The actor. ``take`` runs on a thread of its own: two keepers send to each other at once."""

    def __init__(self) -> None:
        self._folder: MemoryFolder | None = None

    def open(self, folder: str) -> None:
        """Makes its folder. Raises OSError."""
        self._folder = MemoryFolder(Path(folder))

    def answer(self) -> None:
        """Says that it is there."""

    def seal(self, name: str, paths: Sequence[str], to: Any | None) -> Sealed:
        """The sizes and hashes of files that ranks of this node have written, which the keeper ``to`` gets, too."""
        records, not_sent = [], ""
        for path in paths:
            try:
                record = self._send_one(name, path, None if not_sent else to)
            except (OSError, RayError) as error:
                not_sent = _said(error)
                record = self._send_one(name, path, None)
            records.append(record)
        return Sealed(tuple(records), not_sent)

    def send(self, name: str, paths: Sequence[str], to: Any) -> None:
        """Files that this keeper has to another. Raises OSError, RayError."""
        for path in paths:
            self._send_one(name, path, to)

    def write(self, name: str, paths: Sequence[str], folder: str) -> list[FileRecord]:
        """Files that this keeper has into a folder on the disk, synced and hashed there. Raises OSError."""
        for path in paths:
            target = Path(folder) / safe_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._root / name / safe_path(path), target)
        return record_files(Path(folder), paths)

    def whole(self, name: str, wanted: Mapping[str, str]) -> list[str]:
        """Which of the files, wanted with these hashes, are here as they were."""
        return [path for path, digest in wanted.items() if self._hash(name, path) == digest]

    def missing(self, name: str, paths: Sequence[str]) -> list[str]:
        """Which of the files are not here."""
        return [path for path in paths if not (self._root / name / safe_path(path)).is_file()]

    def drop(self, name: str) -> None:
        """Removes the copy with this name."""
        shutil.rmtree(self._root / safe_path(name), ignore_errors=True)

    def keep_only(self, name: str) -> None:
        """Removes all copies but the one with this name."""
        for path in self._root.iterdir():
            if path.is_dir() and path.name != name:
                shutil.rmtree(path, ignore_errors=True)

    @ray.method(concurrency_group="take")
    def take(self, name: str, path: str, start: int, piece: bytes) -> None:
        """A piece of a file that another keeper has. Raises OSError where there is no room."""
        file = self._root / name / safe_path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "r+b" if start else "wb") as target:
            target.seek(start)
            target.write(piece)

    @property
    def _root(self) -> Path:
        assert self._folder is not None
        return self._folder.path

    def _send_one(self, name: str, path: str, to: Any | None) -> FileRecord:
        digest, size, sent = hashlib.sha256(), 0, None
        with open(self._root / name / safe_path(path), "rb", buffering=0) as file:
            while (piece := file.read(PIECE)) or not size:
                digest.update(piece)
                if to is not None:
                    if sent is not None:
                        ray.get(sent)
                    sent = to.take.remote(name, path, size, piece)
                size += len(piece)
                if not piece:
                    break
        if sent is not None:
            ray.get(sent)
        return FileRecord(path, size, digest.hexdigest())

    def _hash(self, name: str, path: str) -> str:
        try:
            return sha256_file(self._root / name / safe_path(path))
        except OSError:
            return ""


_KEEPER = ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"take": 1})(Keeper)  # type: ignore[call-overload]


class Keepers:
    """Those of a run's nodes, by the nodes' ids. ``wait_s``: how long any answer of theirs is waited for.

    ``folder``: where the ranks of every node write what is to be kept.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._actors: dict[str, Any] = {}
        self._opening: dict[str, Any] = {}
        self.folder = memory_path(secrets.token_hex(8))

    def start_on(self, nodes: Sequence[str]) -> None:
        """Sees that these nodes have a keeper, and does not wait for it."""
        for node in nodes:
            if node not in self._actors:
                place = NodeAffinitySchedulingStrategy(node, soft=False)
                actor = self._actors[node] = _KEEPER.options(scheduling_strategy=place).remote()
                self._opening[node] = actor.open.remote(str(self.folder))

    def ready(self, nodes: Sequence[str]) -> dict[str, str]:
        """Sees that these nodes have a keeper that answers; those that have none, and why."""
        asked = {node: actor.answer.remote() for node, actor in self._actors.items() if node not in self._opening}
        for node, (_, why) in self._answers(asked).items():
            if why:
                log.warning("what is kept in the memory of node %s is lost: %s", node, why)
                self._forget(node)
        self.start_on(nodes)
        opening, self._opening = self._opening, {}
        refused = {node: why for node, (_, why) in self._answers(opening).items() if why}
        for node in refused:
            self._forget(node)
        return refused

    def seal(self, name: str, paths: Mapping[str, Sequence[str]], ring: Mapping[str, str]) -> dict[str, Any]:
        """Has each node's files hashed, and sent on in the ``ring``; what ``sealed`` waits for."""
        to = {node: self._actors.get(after) for node, after in ring.items()}
        return {node: self._actors[node].seal.remote(name, those, to.get(node)) for node, those in paths.items()
                if node in self._actors}  # fmt: skip

    def sealed(self, sealing: Mapping[str, Any]) -> dict[str, tuple[Sealed | None, str]]:
        """By node what its keeper found, or why it found nothing."""
        return self._answers(sealing)

    def whole(self, name: str, wanted: Mapping[str, str]) -> dict[str, list[str]]:
        """By node which files, wanted with these hashes, are there as they were; who does not answer is not waited for
        long once the others have all."""

        def all_there(answers: Mapping[str, tuple[Any, str]]) -> bool:
            return set(wanted) == {path for there, _ in answers.values() for path in there or ()}

        asked = {node: actor.whole.remote(name, wanted) for node, actor in self._actors.items()}
        return {node: there or [] for node, (there, _) in self._answers(asked, all_there).items()}

    def send(self, name: str, sends: Mapping[tuple[str, str], Sequence[str]]) -> list[str]:
        """Files from node to node; what went wrong, of which one thing may be that a node's keeper has ended."""
        gone = {node for pair in sends for node in pair} - set(self._actors)
        if gone:
            return [f"{node}: its keeper has ended" for node in sorted(gone)]
        asked = {
            pair: self._actors[pair[0]].send.remote(name, paths, self._actors[pair[1]]) for pair, paths in sends.items()
        }
        return [why for _, why in self._answers(asked).values() if why]

    def write(self, name: str, paths: Mapping[str, Sequence[str]], folder: Path) -> list[FileRecord | NotWritten]:
        """Each node's keeper writes some files into a folder that all nodes see; what became of them."""
        asked = {node: self._actors[node].write.remote(name, those, str(folder)) for node, those in paths.items()}
        answers = self._answers(asked)
        refused = [NotWritten(f"node {node}: {why}") for node, (_, why) in answers.items() if why]
        return [*refused, *(record for written, _ in answers.values() for record in written or ())]

    def missing(self, name: str, needs: Mapping[str, Sequence[str]]) -> list[str]:
        """What nodes that need these files have not got."""
        asked = {node: self._actors[node].missing.remote(name, paths) for node, paths in needs.items()}
        return [f"{node}: {why or ', '.join(paths)}" for node, (paths, why) in self._answers(asked).items()
                if why or paths]  # fmt: skip

    def drop(self, name: str) -> None:
        """Every keeper removes the copy with this name."""
        for actor in self._actors.values():
            actor.drop.remote(name)

    def keep_only(self, name: str) -> None:
        """Every keeper has removed all copies but the one with this name."""
        self._answers({node: actor.keep_only.remote(name) for node, actor in self._actors.items()
                       if node not in self._opening})  # fmt: skip

    def leave(self, but: Collection[str]) -> None:
        """Ends the keepers of all nodes but these."""
        for node in [node for node in self._actors if node not in but]:
            self._forget(node)

    def close(self) -> None:
        """Ends all, and with them what they keep. Others may be started afterwards, in another Ray too."""
        self.leave(())
        self.folder = memory_path(secrets.token_hex(8))

    def _forget(self, node: str) -> None:
        actor = self._actors.pop(node, None)
        self._opening.pop(node, None)
        if actor is not None and _there():
            with contextlib.suppress(Exception):
                ray.kill(actor)

    def _answers(
        self, asked: Mapping[Any, Any], enough: Callable[[Mapping[Any, tuple[Any, str]]], bool] = lambda _: False
    ) -> dict[Any, tuple[Any, str]]:
        """What each node, or the first of a pair, answered, or why it did not. Once that is ``enough`` the others have
        as long again. Who died is forgotten."""
        if not _there():
            return dict.fromkeys(asked, (None, "Ray has ended"))
        began = time.monotonic()
        until = began + self._wait_s
        found: dict[Any, tuple[Any, str]] = {}
        waiting = {ref: who for who, ref in asked.items()}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=max(0.0, until - time.monotonic()))
            if not ready:
                late = f"no answer within {time.monotonic() - began:.0f} s"
                return found | dict.fromkeys(waiting.values(), (None, late))
            who = waiting.pop(ready[0])
            try:
                found[who] = ray.get(ready[0]), ""
            except ray.exceptions.RayTaskError as error:
                found[who] = None, _said(error)
            except RayError as error:
                found[who] = None, _said(error)
                self._forget(who if isinstance(who, str) else who[0])
            if enough(found):
                now = time.monotonic()
                until = min(until, 2 * now - began + _SLOWER_S)
        return found


def _there() -> bool:
    """Whether Ray is: who asks one that has ended waits for a minute."""
    return ray.is_initialized() and not ended_servers()


def _said(error: BaseException) -> str:
    """What went wrong, in a line. Of what was raised in a keeper the last line has it."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[-1] if isinstance(error, ray.exceptions.RayTaskError) else lines[0]
