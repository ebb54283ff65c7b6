"""Weights & Biases, which may be down, slow or missing without training noticing.

Everything of it happens on one thread of its own, fed by a bounded queue: import, start, logging, finish. metrics.jsonl
is the ledger; this is a copy for looking at, in which no step stands twice however often a run was resumed: W&B's step
is the run's, and what an earlier start has logged is not logged again. W&B would store the command line, the
environment's packages, git remotes and the machine: all of that is switched off, and the configuration it gets is the
resolved recipe with secrets hidden.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import string
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import psutil

from distft.config.redact import redact, redact_text
from distft.tracking.metrics import MetricRecord, Sample, Split
from distft.tracking.wandb_files import kept_samples, logged, run_files
from distft.tracking.wandb_rows import rows_by_step

if TYPE_CHECKING:
    from distft.config.recipe import Recipe

Mode = Literal["offline", "online", "shared", "disabled"]
AT_A_SERVER: tuple[Mode, ...] = ("online", "shared")
LABEL = "driver"  # of what this process writes, where others write to the run too
AXES = ("step", "train/optimizer_steps", "train/num_tokens")  # and W&B's own: wall and relative time
_LONGEST_TAG = 64

_QUEUE_SIZE = 10_000
_INIT_TIMEOUT_S = 60.0
_FINISH_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WandbOptions:
    """How the run appears: ``name`` and ``job_type`` (the algorithm's kind) within ``group`` (the
    experiment) of ``project``. ``config`` is stored verbatim: no secrets. ``run_id`` goes on with a run.
    """

    mode: Mode
    project: str
    name: str
    job_type: str
    group: str
    entity: str | None = None
    tags: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None


def wandb_options(
    recipe: Recipe,
    *,
    run_id: str | None = None,
    commit: str | None = None,
    branch: str | None = None,
    more_config: Mapping[str, Any] | None = None,
) -> WandbOptions:
    """From a recipe. What it leaves unsaid is read from WANDB_MODE, _PROJECT, _ENTITY, _RUN_GROUP and _TAGS;
    WANDB_DISABLED switches it off whatever the recipe says.

    ``commit``, ``branch`` and the recipe's name become tags, ``more_config`` (the plan, the engines' settings) joins
    the recipe in the config.
    """
    asked = recipe.tracking.wandb
    mode = next((mode for mode in get_args(Mode) if mode == _said(asked, "mode", "WANDB_MODE")), asked.mode)
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in ("1", "true", "yes", "on"):
        mode = "disabled"
    tags = tuple(asked.tags) or tuple(tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag)
    own = [("commit", commit and commit[:12]), ("branch", branch), ("recipe", recipe.name)]
    return WandbOptions(
        mode=mode,
        project=_said(asked, "project", "WANDB_PROJECT") or asked.project,
        entity=_said(asked, "entity", "WANDB_ENTITY") or asked.entity,
        group=redact_text(_said(asked, "group", "WANDB_RUN_GROUP") or asked.group or recipe.name),
        name=redact_text(recipe.name),
        job_type=recipe.algorithm.name,
        tags=tuple(
            redact_text(tag) for tag in (*tags, *(f"{what}-{name}"[:_LONGEST_TAG] for what, name in own if name))
        ),
        config=redact({**recipe.model_dump(mode="json", by_alias=True), **(more_config or {})}),
        # An agent of a sweep knows its runs by their ids.
        run_id=run_id or (os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None),
    )


class WandbBackend:
    """One W&B run below ``RUN/wandb``. No method raises or waits for the network, save ``close``, which
    waits at most ``timeout_s``. An online run that cannot start is kept offline, for ``distft sync``; one whose server
    goes away meanwhile is caught up by that, too, or by its next start.

    The server takes rows in the order of their steps alone, so that it holds all of them up to one. A start on line of
    a run that is there first sends those after it, ``before`` the step that is this start's first, from the ledgers.
    With ``catches_up``, a run folder, it is there for that alone: from that folder's, and never kept offline.
    """

    def __init__(self, run_dir: Path, options: WandbOptions, *, init_timeout_s: float = _INIT_TIMEOUT_S,
                 finish_timeout_s: float = _FINISH_TIMEOUT_S, queue_size: int = _QUEUE_SIZE,
                 before: float = 0, catches_up: Path | None = None) -> None:  # fmt: skip
        alphabet = string.ascii_lowercase + string.digits
        self.run_id = options.run_id or "".join(secrets.choice(alphabet) for _ in range(8))
        self._run_dir, self._options = run_dir, options
        self._init_timeout_s, self._finish_timeout_s = init_timeout_s, finish_timeout_s
        self._before_step, self._catches_up = before, catches_up
        self._jobs: queue.Queue[Callable[[Any], None] | None] = queue.Queue(queue_size)
        self._dropped = 0
        self._mode = options.mode  # as the run was begun; of the thread alone
        self._exit_status = 0
        self._closed = self._abandoned = False
        self._complained = self._finished = False
        self._last: dict[str, int] = {}  # step of the newest row, by kind; of the thread alone
        self._table: Any = None
        self._kept: list[tuple[Any, ...]] = []  # rows of the table from before a restart
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    @property
    def arrived(self) -> bool:
        """Once it is closed: whether W&B has all that was given."""
        return self._finished and not self._complained and not self._dropped

    def log(self, record: MetricRecord) -> None:
        """The numbers under ``train/`` or ``eval/``."""
        self._submit(lambda run: self._log(run, record))

    def samples(self, step: int, samples: Sequence[Sample], split: Split = "train") -> None:
        """More rows of the table ``completions``, which is sent by what was added."""
        self._submit(lambda run: self._add_samples(run, step, samples, split))

    def keep(self, kind: str, path: Path) -> None:
        """An artifact: a file, or a folder by where it lies."""

        def kept(run: Any) -> None:
            import wandb

            artifact = wandb.Artifact(f"{kind}-{self.run_id}", type=kind)
            if path.is_dir():
                artifact.add_reference(f"file://{path.resolve()}", checksum=False)
            else:
                artifact.add_file(str(path))
            run.log_artifact(artifact)

        self._submit(kept)

    def alert(self, title: str, text: str) -> None:
        """A W&B alert: a message, and mail where the user asked for that there."""
        self._submit(lambda run: run.alert(title=title, text=text, level="WARN"))

    def close(self, exit_status: int = 0, timeout_s: float = 40.0) -> None:
        """Finish the run; give up, loudly, after ``timeout_s`` seconds. A second call does nothing."""
        if self._closed:
            return
        self._closed, self._exit_status = True, exit_status
        while True:
            try:
                self._jobs.put_nowait(None)
                break
            except queue.Full:
                self._drop_oldest()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            said = "W&B did not finish within %.0f s and is stopped; distft sync %s sends what is missing"
            _log.error(said, timeout_s, self._run_dir)
            self._abandoned = True
            _stop_service()
            self._thread.join(_STOP_TIMEOUT_S)
        if self._dropped:
            _log.warning("W&B was too slow for %d records: they are in metrics.jsonl only", self._dropped)

    def _log(self, run: Any, record: MetricRecord) -> None:
        row = {f"{record.split}/{name}": value for name, value in record.values.items()}
        self._row(run, record.split, record.step, lambda: row)

    def _add_samples(self, run: Any, step: int, samples: Sequence[Sample], split: Split) -> None:
        rows = [[step, sample.prompt, sample.completion, sample.score] for sample in samples]

        def grown() -> dict[str, Any]:
            self._table = _table() if self._table is None else self._table
            for row in (*self._kept, *rows):
                self._table.add_data(*row)
            self._kept = []
            return {"completions": self._table}

        self._row(run, f"completions/{split}", step, grown)

    def _row(self, run: Any, kind: str, step: int, values: Callable[[], dict[str, Any]]) -> None:
        """A row, unless one of that kind and step, or of a later one, is there from before a restart."""
        if step <= self._last.get(kind, -1):
            return
        # In a run that others write to W&B counts for itself; the axis is our own in any case.
        run.log({**values(), "step": step}, **({} if self._mode == "shared" else {"step": step}))
        self._last[kind] = step

    def _submit(self, job: Callable[[Any], None]) -> None:
        if self._closed:
            return
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._dropped += 1
            self._complain("W&B does not keep up: records are dropped; metrics.jsonl is complete")

    def _drop_oldest(self) -> None:
        try:
            self._jobs.get_nowait()
            self._dropped += 1
        except queue.Empty:
            pass

    def _work(self) -> None:
        run = self._start()
        if run is not None:
            self._send_lacking(run)
        while (job := self._jobs.get()) is not None:
            if run is None:
                continue
            try:
                job(run)
            except Exception as error:
                self._complain("W&B: %s; training goes on, metrics.jsonl is complete", error)
        if run is not None:
            try:
                run.finish(exit_code=self._exit_status)
                self._finished = True
            except Exception as error:
                _log.error("W&B could not finish: %s; distft sync %s sends what is missing", error, self._run_dir)
        if self._abandoned:
            _forget_service()

    def _send_lacking(self, run: Any) -> None:
        """What the server has not of the steps before this start."""
        if self._mode != "online" or not (run.resumed or self._catches_up):
            return
        try:
            for one in rows_by_step(self._catches_up or self._run_dir, run.starting_step, self._before_step):
                if isinstance(one, MetricRecord):
                    self._log(run, one)
                else:
                    self._add_samples(run, *one, "train")
        except Exception as error:
            self._complain("W&B: %s; training goes on, metrics.jsonl is complete", error)

    def _start(self) -> Any:
        asked = self._options.mode
        modes: tuple[Mode, ...] = (asked, "offline") if asked in AT_A_SERVER and not self._catches_up else (asked,)
        for mode in modes:
            try:
                return self._init(mode)
            except Exception as error:
                then = "the W&B run is kept offline, training goes on" if mode != modes[-1] else "there is no W&B run"
                _log.error("W&B could not start %s: %s; %s", mode, error, then)
        return None

    def _init(self, mode: Mode) -> Any:
        # Tables are staged in the user's home unless told otherwise; they belong to the run.
        os.environ.setdefault("WANDB_DATA_DIR", str(self._run_dir.resolve() / "wandb" / "data"))
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", symlink=False, program="distft", init_timeout=self._init_timeout_s,
            finish_timeout=self._finish_timeout_s, finish_timeout_raises=True, disable_git=True, disable_code=True,
            save_code=False,
            disable_job_creation=True, x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
            x_save_requirements=False, x_label=LABEL if mode == "shared" else None,
        )  # fmt: skip
        self._mode = mode
        if mode in AT_A_SERVER:
            wandb.setup(settings=wandb.Settings(silent=True, mode=mode))  # whatever WANDB_MODE says
            if not wandb.login(prompt=False):
                raise RuntimeError("no credentials (WANDB_API_KEY, or `wandb login`)")
        options = self._options
        files = run_files(self._run_dir, self.run_id) if options.run_id is not None else []  # of earlier starts
        run = wandb.init(
            dir=str(self._run_dir), mode=mode, project=options.project, entity=options.entity, group=options.group,
            job_type=options.job_type, name=options.name, tags=list(options.tags), config=dict(options.config),
            id=self.run_id, resume="allow", settings=settings,
        )  # fmt: skip
        if mode == "online" and run.resumed:  # what arrived there, whatever was written here
            before = dict.fromkeys(("train", "eval", "completions"), run.starting_step - 1)
            self._kept = []  # W&B goes on with its own table
        else:
            before = self._before(files)
        tables = dict.fromkeys(("completions/train", "completions/eval"), before.get("completions", -1))
        self._last = before | tables
        for axis in AXES:
            run.define_metric(axis, hidden=True)
        for prefix in ("train/*", "eval/*", "completions"):
            run.define_metric(prefix, step_metric="step")
        return run

    def _before(self, files: Sequence[Path]) -> dict[str, int]:
        """What earlier starts logged; the table goes on from their samples."""
        try:
            before = logged(files)
            self._kept = kept_samples(self._run_dir, before.get("completions", -1))
        except (OSError, subprocess.SubprocessError) as error:
            _log.error("rows of earlier starts cannot be read: %s; the W&B run goes on, some steps may be twice", error)
            return {}
        return before

    def _complain(self, text: str, *values: object) -> None:
        """Loudly the first time, then for those who look."""
        _log.log(logging.DEBUG if self._complained else logging.ERROR, text, *values)
        self._complained = True


def _stop_service() -> None:
    """Kill the helper process that W&B started: a frozen one would hold up this process's exit for ever."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() == "wandb-core":
                child.kill()


def _forget_service() -> None:
    """So that W&B does not talk to its killed helper when the interpreter exits."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown()


def _table() -> Any:
    import wandb

    return wandb.Table(columns=["step", "prompt", "completion", "score"], log_mode="INCREMENTAL")


def _said(section: Any, name: str, variable: str) -> str | None:
    """What the environment says where the recipe says nothing."""
    return None if name in section.model_fields_set else os.environ.get(variable)
