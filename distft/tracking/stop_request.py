"""``distft cancel``: a file in the run folder that asks the run to stop.

A signal reaches only processes of this machine, and what Slurm and Ray send leaves a run 30 and 3 seconds. The file
works wherever the run folder is seen, and as long as a step and a checkpoint take. It names whom it means (the
owner of the folder's lease, or a job that is still to start), so that it never stops a later run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distft.common.files import parse_json, write_json

STOP = "stop.json"
JOB = "DISTFT_JOB_ID"  # in the environment of a driver that a submitted job runs


@dataclass(frozen=True)
class StopRequest:
    """What the file says: ``tokens`` of leases and ``jobs`` by id that are meant; ``now``: without a checkpoint."""

    tokens: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    now: bool = False
    time: float = 0.0

    def means(self, token: str, jobs: Collection[str] = ()) -> bool:
        """Whether the owner of this lease token ("": none), running as a job of these names, is asked to stop."""
        return token in self.tokens or not set(self.jobs).isdisjoint(jobs)


def own_names(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The ids by which the job may be known in which this process is, if it is in one: a task of an array by its own
    number, as ``12_3``, or as part of the whole."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID", ""), environment.get("SLURM_ARRAY_TASK_ID", "")
    names = (f"{array}_{task}", array) if array and task else ()
    return (*names, *filter(None, (environment.get(JOB, "") or environment.get("SLURM_JOB_ID", ""),)))


def ask_to_stop(run_dir: Path, *, tokens: Sequence[str] = (), jobs: Sequence[str] = (), now: bool = False) -> None:
    """Writes the request. Raises OSError."""
    write_json(
        run_dir / STOP, {"format": 1, "tokens": list(tokens), "jobs": list(jobs), "now": now, "time": time.time()}
    )


def read_request(run_dir: Path) -> StopRequest | None:
    """The request that lies in the folder, whoever it means."""
    try:
        found = parse_json((run_dir / STOP).read_bytes())
        return StopRequest(tuple(found["tokens"]), tuple(found["jobs"]), bool(found["now"]), float(found["time"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_request(run_dir: Path) -> None:
    """Once it is heard: the same command goes on."""
    with contextlib.suppress(OSError):
        (run_dir / STOP).unlink(missing_ok=True)
