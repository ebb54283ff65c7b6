"""Going back before a spike, by choice (``recovery.rollback``): what is left out from then on, and why.

bad steps are confirmed ─► ``rollbacks.json`` says what is left out ─► checkpoints of those steps step aside ─► the run
goes on from the newest before them, past those units

What is left out follows from the metrics alone, not from where checkpoints lie, so that a run that is killed in between
leaves out the same. A position (``visits``) at which something left out begins stands for the one behind it, in every
attempt from then on: also in one that begins earlier, and in a replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distft.common.errors import RunFailed, UserError
from distft.common.files import parse_json, write_json

FORMAT = 1
ROLLBACKS = "rollbacks.json"


@dataclass(frozen=True)
class Rollback:
    """The units from position ``start`` to before ``end`` are left out: of steps ``first`` to ``last``, which the run
    had taken by then. ``why``, and by which ``role``."""

    first: int
    last: int
    start: int
    end: int
    role: str
    why: str


def rollbacks_of(progress: Mapping[str, Any]) -> tuple[Rollback, ...]:
    """Those in the state of a run that a checkpoint holds."""
    return tuple(Rollback(**one) for one in progress.get("rollbacks", ()))


class GoBack(RunFailed):
    """Ends an attempt, for another that goes on before what is left out; ``sign``: the first step that was bad."""

    def __init__(self, rollback: Rollback, sign: int) -> None:
        super().__init__(rollback.why, role=rollback.role, kind="rollback")
        self.rollback, self.sign = rollback, sign


def read_rollbacks(run_dir: Path) -> tuple[Rollback, ...]:
    """Those of a run so far, in their order. Raises UserError where its record of them is damaged."""
    path = run_dir / ROLLBACKS
    if not path.exists():
        return ()
    try:
        return tuple(Rollback(**one) for one in parse_json(path.read_bytes())["rollbacks"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        what = f"the run's record of the data that it leaves out cannot be read: {error}"
        hint = "checkpoint.resume=never starts again from the beginning"
        raise UserError(what, where=str(path), hint=hint) from error


def write_rollbacks(run_dir: Path, made: Sequence[Rollback]) -> None:
    """Whole and on the disk, or as it was. Raises OSError."""
    if made:
        write_json(run_dir / ROLLBACKS, {"format": FORMAT, "rollbacks": [asdict(one) for one in made]})
    else:
        (run_dir / ROLLBACKS).unlink(missing_ok=True)


def left_behind(step: int, progress: Mapping[str, Any], made: Sequence[Rollback]) -> int | None:
    """The first step of a checkpoint's past that was left out after it had been written, in a run with these rollbacks;
    None: it counts. ``progress``: the state that it holds."""
    since = [one.first for one in made[len(progress.get("rollbacks", ())) :]]
    return min(since) if since and min(since) <= step else None


def left_out(made: Sequence[Rollback]) -> dict[int, int]:
    """Where each begins, and the position behind it."""
    return {one.start: one.end for one in made}
