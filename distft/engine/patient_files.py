"""Checkpoint files of a rank, written in step with the other ranks whatever the disk says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine


class PatientFiles(TorchCheckpointEngine):  # type: ignore[misc]
    """Takes the place of ``engine.checkpoint_engine``; what the disk refuses is raised when all ranks are through.

    An error on its way out of ``save_checkpoint`` would leave the other ranks in its barriers, and DeepSpeed's
    persistent parameters sharded in a run that goes on. The scripts that it copies beside a checkpoint, where
    the disk could refuse too, are left out: ``offline`` reads it.
    """

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.zipfile_serialization = engine.checkpoint_engine.zipfile_serialization
        self._refused: list[Exception] = []
        engine.checkpoint_engine = self
        engine._copy_recovery_script = lambda _: None

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Makes a folder, if the disk lets it."""
        with self._keeping():
            super().makedirs(path, exist_ok=exist_ok)

    def save(self, state_dict: Any, path: str) -> None:
        """Writes a file, if the disk lets it."""
        with self._keeping():
            super().save(state_dict, path)

    def raise_refused(self) -> None:
        """Raises what the disk has refused since the last call."""
        refused, self._refused = self._refused, []
        if refused:
            raise refused[0]

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            self._refused.append(error)
