"""What a run folder says of its run: how far it is, how fast, what it last saved, how it ended. Files only, but for
what schedulers said of its jobs.

Works for every run, however it was started. Nothing is written, nothing waits for the run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from distft.checkpoint.layout import checkpoints_folder, published
from distft.checkpoint.lease import LEASE, living
from distft.checkpoint.manifest import ManifestError, read_manifest
from distft.common.errors import UserError
from distft.common.files import nearest_beside, tail, whole_record
from distft.common.logging import last_stage
from distft.config.yaml_file import read_yaml
from distft.tracking.exit import EXIT
from distft.tracking.jobs import FILE as JOBS
from distft.tracking.jobs import FORGOTTEN, JobRecord, JobState, KnownJob, counting, read_jobs
from distft.tracking.last_ending import last_ending, number
from distft.tracking.metrics import EVENTS, METRICS
from distft.tracking.stop_request import read_request

State = Literal["waiting", "starting", "running", "stopping", "done", "stopped", "failed", "lost"]
_BEGUN = (EVENTS, EXIT, LEASE)  # a run has begun in the folder that has one of these files
_WELL = ("COMPLETED", "SUCCEEDED")  # Slurm's word and Ray's
_PACE_STEPS = 20
_TAIL = 1024 * 1024  # bytes of metrics.jsonl that are read, from its end


@dataclass(frozen=True)
class Attempt:
    """One start of the run. Times in unix seconds; ``ended`` None: not known, or it goes on. ``how``: the event that
    ended it. ``exit_status`` None: as ``ended``, or what followed was a restart of ours."""

    number: int
    started: float
    from_step: int = 0
    ended: float | None = None
    how: str = ""
    cause: str = ""
    exit_status: int | None = None


@dataclass(frozen=True)
class SavedCheckpoint:
    """The newest published one. ``bytes`` of all its files."""

    step: int
    path: str
    time: float
    bytes: int


@dataclass(frozen=True)
class RunStatus:
    """``metrics`` of the last training step; ``seconds_per_step`` over this attempt's last steps. ``jobs``: all that
    the run has had; ``known``: those of which a scheduler was asked; ``job``: the state of the one that counts.
    """

    name: str
    run_dir: str
    state: State
    phase: str = ""
    step: int = 0
    total_steps: int | None = None
    metrics: Mapping[str, Any] | None = None
    held_out: Mapping[str, Any] | None = None
    seconds_per_step: float | None = None
    eta_s: float | None = None
    checkpoint: SavedCheckpoint | None = None
    attempts: tuple[Attempt, ...] = ()
    owner: str | None = None
    heartbeat_age_s: float | None = None
    exit: Mapping[str, Any] | None = None
    jobs: tuple[JobRecord, ...] = ()
    known: tuple[KnownJob, ...] = ()
    job: JobState | None = None

    def as_json(self) -> dict[str, Any]:
        """For scripts, with the format's version."""
        return {"format": 1, **asdict(self)}


def holds_run(folder: Path) -> bool:
    """Whether a run lies in the folder, or is to: a job was submitted for it."""
    return any((folder / name).is_file() for name in (*_BEGUN, JOBS))


def runs_inside(folder: Path) -> list[Path]:
    """The run folders in a folder in which no run has begun itself, such as a pipeline's; by name."""
    if any((folder / name).is_file() for name in _BEGUN) or not folder.is_dir():
        return []
    return sorted(filter(holds_run, folder.iterdir()))


def going_on_in(folder: Path) -> Path:
    """The folder that somebody holds: of a pipeline that runs as one job that of the stage which it is at; itself where
    it is none, or none of its stages runs."""
    return next((stage for stage in runs_inside(folder) if living(stage)), folder)


def require_run(folder: Path) -> None:
    """Raises UserError where no run lies in the folder, nor is to."""
    if holds_run(folder):
        return
    near = _near(folder)
    hint = f"did you mean {near}?" if near else "give the output_dir of a run"
    what = "no run lies in this folder" if folder.is_dir() else "there is no such folder"
    if folder.is_file():
        what = "is a file, not the folder of a run"
    raise UserError(what, where=str(folder), hint=hint)


def _near(folder: Path) -> Path | None:
    """The run that may have been meant: one inside, of a recipe its own, of the same name in ``runs``, or of nearly
    that name beside it."""
    if folder.is_dir():
        return next(iter(runs_inside(folder)), None)
    if folder.is_file():
        said = _output_dir_of(folder)
        return said if said is not None and holds_run(said) else None
    usual = Path("runs") / folder.name
    return usual if holds_run(usual) else nearest_beside(folder, folders=True)


def _output_dir_of(recipe: Path) -> Path | None:
    try:
        data = read_yaml(recipe).data
    except UserError:
        return None
    said = data.get("output_dir") if isinstance(data, dict) else None
    return Path(said).expanduser() if isinstance(said, str) else None


def run_status(run_dir: Path, known: Sequence[KnownJob] = ()) -> RunStatus:
    """``known``: what schedulers say of the run's jobs. Raises UserError where no run lies in the folder."""
    require_run(run_dir)
    events, held = list(_lines(run_dir / EVENTS)), living(run_dir)
    attempts, job = _attempts(events), counting(known)
    ended = last_ending(run_dir, attempts[-1].started if attempts else 0.0)
    lines = list(_lines(run_dir / METRICS, _TAIL))
    steps = [line for line in lines if line.get("split") == "train" and isinstance(line.get("step"), int)]
    step = steps[-1]["step"] if steps else 0
    total = next((total for event in reversed(events) if isinstance(total := event.get("total_steps"), int)), None)
    state = _state(run_dir, held.owner.token if held and held.owner else "", held is not None, ended, job, attempts,
                   stepped=_steps_now(steps, events, attempts))  # fmt: skip
    pace = _pace(steps, attempts)
    going = state in ("starting", "running", "stopping")
    return RunStatus(
        name=next((str(event["recipe"]) for event in reversed(events) if "recipe" in event), run_dir.name),
        run_dir=str(run_dir),
        state=state,
        phase=last_stage(run_dir / "logs" / "driver.log") if going and attempts else "",
        step=step,
        total_steps=total,
        metrics=_numbers(steps[-1]) if steps else None,
        held_out=next((_numbers(line) for line in reversed(lines) if line.get("split") == "eval"), None),
        seconds_per_step=pace,
        eta_s=pace * max(0, total - step) if pace is not None and total is not None and going else None,
        checkpoint=_checkpoint(run_dir),
        attempts=attempts,
        owner=str(held.owner) if held and held.owner else None,
        heartbeat_age_s=max(0.0, time.time() - held.heartbeat) if held else None,
        exit=ended,
        jobs=tuple(read_jobs(run_dir)),
        known=tuple(known),
        job=job.state if job else None,
    )


def _state(
    run_dir: Path, token: str, alive: bool, ended: Mapping[str, Any] | None, job: KnownJob | None,
    attempts: Sequence[Attempt], *, stepped: bool,
) -> State:  # fmt: skip
    request = read_request(run_dir)
    if alive and not ended:
        if request is not None and request.means(token):
            return "stopping"
        return "running" if stepped else "starting"
    if job is not None and job.state.phase == "pending":
        return "waiting"  # for its first nodes, or again for nodes
    last = max(number(ended.get("time")) if ended else 0.0, attempts[-1].started if attempts else 0.0)
    new = job is not None and job.record.submitted > last  # nothing of it is seen in the folder yet
    if job is not None and job.state.phase == "running" and (new or not ended):
        if request is not None and request.means("", (job.record.job_id,)):
            return "stopping"
        return "running" if living(going_on_in(run_dir)) else "starting"
    if job is not None and job.state.phase == "ended" and (new or not (ended or attempts)):
        return _of_job(job.state)
    if ended:
        return _of_code(ended.get("exit_status"))
    return "lost" if attempts else "waiting"


def _of_job(job: JobState) -> State:
    """How a run is whose job has ended without a trace in the folder: before it began, or in a folder not seen here."""
    if job.cancelled:
        return "stopped"
    if job.said == FORGOTTEN:
        return "lost"
    # The exit code of what Slurm ended itself (TIMEOUT, NODE_FAIL) may be 0.
    return _of_code(job.exit_code if job.exit_code or job.said.startswith(_WELL) else 1)


def _of_code(status: int | None) -> State:
    return "done" if status == 0 else "stopped" if status == 75 else "failed"


def _attempts(events: Sequence[Mapping[str, Any]]) -> tuple[Attempt, ...]:
    found: dict[int, Attempt] = {}
    for event in events:
        attempt, name, moment = event.get("attempt"), event.get("event"), event.get("time")
        if not isinstance(attempt, int) or not number(moment):
            continue
        if name == "start":
            found[attempt] = Attempt(attempt, number(moment))
        elif attempt in found and name in ("done", "stop", "failure", "rollback"):
            cause = str(event.get("cause") or "").splitlines()
            status = event.get("exit_status")
            found[attempt] = replace(
                found[attempt], ended=number(moment), how=str(name), cause=cause[0] if cause else "",
                exit_status=status if isinstance(status, int) else None,
            )  # fmt: skip
        elif attempt in found and name == "resume":
            found[attempt] = Attempt(attempt, found[attempt].started, int(number(event.get("step"))))
    return tuple(found.values())


def _steps_now(
    steps: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], attempts: Sequence[Attempt]
) -> bool:
    """Whether the last attempt does what it was started for: it has stepped, or, an evaluation, begun."""
    evaluates = bool(events) and events[-1].get("event") == "evaluate"
    return evaluates or (bool(steps) and _within(steps[-1], attempts))


def _within(line: Mapping[str, Any], attempts: Sequence[Attempt]) -> bool:
    return bool(attempts) and number(line.get("time")) >= attempts[-1].started


def _pace(steps: Sequence[Mapping[str, Any]], attempts: Sequence[Attempt]) -> float | None:
    """Seconds per step over the last steps of the last attempt."""
    marks = [(int(line["step"]), number(line.get("time"))) for line in steps if _within(line, attempts)][-_PACE_STEPS:]
    if len(marks) < 2 or marks[-1][0] <= marks[0][0]:
        return None
    return (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])


def _checkpoint(run_dir: Path) -> SavedCheckpoint | None:
    for step, path in published(checkpoints_folder(run_dir)):
        try:
            manifest = read_manifest(path)
        except ManifestError:
            continue
        return SavedCheckpoint(step, str(path), manifest.time, manifest.num_bytes)
    return None


def _numbers(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("format", "split", "nonfinite")}


def _lines(path: Path, num_bytes: int = sys.maxsize) -> Iterator[dict[str, Any]]:
    """The whole lines that are JSON objects, of the file's last bytes; the torn first one of a longer file is none."""
    try:
        found = tail(path, num_bytes + 1)
    except OSError:
        return
    lines = found.splitlines(keepends=True)[1 if len(found) > num_bytes else 0 :]
    yield from filter(None, map(whole_record, lines))
