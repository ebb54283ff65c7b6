"""The owner of a run folder, for tests that are about something else."""

from __future__ import annotations


class Mine:
    """An owner that nobody takes the run from."""

    token = "mine"

    def require(self) -> None:
        pass
