"""``distft replay``: one recorded step again, in a folder of its own; that of the run is only read.

recipe and checkpoints of RUN -> newest whole checkpoint before the step -> the same samples to the end of that step,
nothing evaluated, nothing saved -> its metrics beside the logged ones
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from distft.checkpoint.coordinator import Coordinator, Found, named_checkpoint, newest_checkpoint
from distft.checkpoint.layout import checkpoints_folder
from distft.checkpoint.lease import Lease, acquire, is_lease, living, refuse_if_held
from distft.common.errors import RunFailed, UserError
from distft.common.files import nearest_beside, write_json
from distft.common.logging import configure
from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.config.redact import HIDDEN
from distft.config.roles import is_rl
from distft.controller.failed_steps import FailedSteps, failed_step
from distft.controller.progress import Progress
from distft.controller.rollback import left_behind, read_rollbacks
from distft.controller.stop_flag import StopFlag
from distft.launch.attempt import set_up, started, train_steps
from distft.launch.kept_paths import found_again
from distft.launch.on_ray.for_plans import ray_for
from distft.launch.prepare import Prepared, prepare
from distft.launch.replayed import Replayed, compare, laid_out_anew, line_of, same_tokens
from distft.launch.resume_point import check_files
from distft.launch.run_folder import essential, fingerprint, write_recipe
from distft.planning.plan import Plan
from distft.tracking.display import make_progress
from distft.tracking.exit import Ending, write_exit
from distft.tracking.metrics import EVENTS, METRICS, PLAN, RECIPE
from distft.tracking.tracker import Tracker
from distft.workers.kept_step import BATCH

REPLAY = "replay.json"
_ANOTHER = "give another: distft replay ... --output FOLDER"
OTHER_LAYOUT = 1e-4  # what sums in another order make of a metric in float32, relative
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """Step ``step`` of the run in ``run_dir``, on a cluster, with ``overrides`` of how it is laid out. ``output``: a
    folder for what is written, None: one beside the run. ``tolerance``: of the comparison, relative; None: none on the
    run's own layout, ``OTHER_LAYOUT`` on another."""

    run_dir: Path
    step: int
    cluster: str = "local"
    overrides: Sequence[str] = ()
    output: Path | None = None
    tolerance: float | None = None

    @property
    def folder(self) -> Path:
        """Where all that is written lies."""
        return (self.output or self.run_dir.with_name(f"{self.run_dir.name}-replay-{self.step}")).absolute()


@dataclass(frozen=True)
class Ready:
    """A replay that may start: ``prepared`` as a run of its own, from the checkpoint ``found`` (None: the beginning).
    ``same_layout``: its groups and engines are those of the run."""

    wish: Wish
    prepared: Prepared
    found: Found | None
    same_layout: bool


def prepare_replay(wish: Wish) -> Ready:
    """Everything that can be checked before anything is started. Raises UserError, EnvironmentFallsShort."""
    if load_cluster(wish.cluster).kind == "slurm" and not os.environ.get("RAY_ADDRESS"):
        what = "a replay is no Slurm job: it runs on this machine, or on a Ray cluster that runs already"
        raise UserError(what, where=f"--cluster {wish.cluster}", hint="leave it out, or give --cluster local")
    recipe, as_it_was = _recipes(wish)
    _require_step(wish, recipe.train.steps)
    _require_ended(wish.run_dir)
    _require_free(wish)
    found = _begin(wish, recipe)
    check_files(recipe, found)
    prepared = prepare(_apart(recipe, wish.folder), wish.cluster)
    former = _former_plan(wish.run_dir)
    same = former is not None and former.groups == prepared.plan.groups and recipe.models == as_it_was.models
    same = same and not laid_out_anew(wish.run_dir / EVENTS, wish.step)
    return Ready(wish, prepared, found, same)


def replay(ready: Ready, *, quiet: bool = False) -> Replayed:
    """Runs the step again. Raises what it ends with; a RunFailed says which step it was, where it was one."""
    wish, prepared = ready.wish, ready.prepared
    folder, progress = wish.folder, Progress(total_steps=0)
    if ready.found is not None:
        progress.restore(ready.found.progress)
    progress.rollbacks = read_rollbacks(wish.run_dir)
    with acquire(folder) as lease:
        _require_replays(folder)
        _empty(folder)
        write_json(folder / REPLAY, {"format": 1, "run": str(wish.run_dir), "step": wish.step})
        write_recipe(prepared.recipe, folder)
        configure(folder / "logs" / "driver.log", attempt=1, terminal=True)
        try:
            _run_to(ready, progress, lease, quiet=quiet)
        except BaseException as error:
            write_exit(folder, Ending.of(error), 1)
            raise
        finally:
            configure()
        result = _compared(ready)
        write_json(folder / REPLAY, result.as_json())
        write_exit(folder, Ending.of(None), 1)
    return result


def _run_to(ready: Ready, progress: Progress, lease: Lease, *, quiet: bool) -> None:
    recipe, plan, folder = ready.prepared.recipe, ready.prepared.plan, ready.wish.folder
    shown = make_progress(recipe.name, quiet=quiet)
    with (
        Tracker(folder, attempt=1, resume_step=None, total_steps=recipe.train.steps, progress=shown) as tracker,
        ray_for([plan], folder, ready.prepared.cluster),
        started(recipe, plan, folder, 1, tracker) as groups,
    ):
        tracker.event("start", recipe=recipe.name, cluster=ready.prepared.cluster.name)
        coordinator = Coordinator(folder, 1, lease)
        session = set_up(
            recipe, plan, folder, groups, tracker, coordinator, progress, ready.found, StopFlag()
        )  # fmt: skip
        _require_step(ready.wish, progress.total_steps)
        session.until = ready.wish.step
        session.failed_steps = FailedSteps(folder, [ready.wish.step], forgets=False)
        if is_rl(recipe):
            session.weights.sync(progress.step)
        try:
            train_steps(session)
        except RunFailed as error:
            raise error.because(f"step {progress.step + 1} fails: {error.cause}") from error


def _compared(ready: Ready) -> Replayed:
    wish = ready.wish
    tolerance = wish.tolerance
    if tolerance is None:
        tolerance = 0.0 if ready.same_layout else OTHER_LAYOUT
    logged, now = (line_of(folder / METRICS, wish.step) for folder in (wish.run_dir, wish.folder))
    kept, batch = (failed_step(folder, wish.step) / BATCH for folder in (wish.run_dir, wish.folder))
    begun = ready.found.step if ready.found else 0
    return Replayed(
        wish.run_dir, wish.step, begun, compare(logged, now, tolerance) if logged else (), same_tokens(kept, batch),
        ready.same_layout, tolerance, wish.folder,
    )  # fmt: skip


def _recipes(wish: Wish) -> tuple[Recipe, Recipe]:
    """The run's recipe with what is asked for, and as it was. Raises UserError where that is another computation."""
    path = wish.run_dir / RECIPE
    if not path.is_file():
        near = None if wish.run_dir.is_dir() else nearest_beside(wish.run_dir)
        hint = f"did you mean {near}?" if near else "give the folder of a run"
        raise UserError(f"holds no {RECIPE}", where=str(wish.run_dir), hint=hint)
    asked, former = (found_again(load_recipe(str(path), words), wish.run_dir) for words in (wish.overrides, ()))
    now, then = essential(asked), essential(former)
    for key in sorted({*now, *then}):
        if HIDDEN in str(now.get(key)):
            hint = f"say it again: distft replay ... {key}=VALUE"
            raise UserError("the run folder keeps no secrets, and this holds one", where=key, hint=hint)
        if now.get(key) != then.get(key) and HIDDEN not in str(then.get(key)):
            hint = "what may change is placement, models.<role>.engine and the cluster"
            raise UserError("with this the step would not be the one that the run took", where=key, hint=hint)
    return asked, former


def _apart(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe for a folder of its own, of which nothing is evaluated or saved and that ends at its first failure."""
    return recipe.model_copy(update={
        "output_dir": str(folder),
        "checkpoint": recipe.checkpoint.model_copy(update={"resume": "never"}),
        "evaluation": recipe.evaluation.model_copy(update={"every": 0}),
        "recovery": recipe.recovery.model_copy(update={"max_restarts": 0}),
    })  # fmt: skip


def _begin(wish: Wish, recipe: Recipe) -> Found | None:
    """The newest whole checkpoint of the run before the step, else what the run began with; None: the beginning."""
    folder = checkpoints_folder(wish.run_dir)
    try:
        found = newest_checkpoint(folder, before=wish.step)
        first = None if found is None else left_behind(found.step, found.progress, read_rollbacks(wish.run_dir))
        found = found if first is None else newest_checkpoint(folder, before=first)
    except UserError as error:
        log.warning("the replay begins at the first step: %s", error.what)
        found = None
    if found is not None:  # its recipe is the run's own, but for paths that are absolute now
        return replace(found, manifest=replace(found.manifest, fingerprint=fingerprint(recipe)))
    resume = recipe.checkpoint.resume
    if resume in ("auto", "never"):
        return None
    named = named_checkpoint(Path(resume))
    if named.step >= wish.step:
        what = f"the run began at step {named.step + 1}, from {resume}"
        raise UserError(what, where=f"step {wish.step}", hint=f"the first step is {named.step + 1}")
    return named


def _require_step(wish: Wish, last: int | None) -> None:
    if wish.step < 1 or (last is not None and wish.step > last):
        hint = f"steps are 1 to {last:,}" if last else "the first step is 1"
        raise UserError(f"the run has no step {wish.step}", where=str(wish.run_dir), hint=hint)


def _require_ended(run_dir: Path) -> None:
    held = living(run_dir)
    if held is not None:
        what = f"the run goes on ({held.owner}), and deletes checkpoints that a replay may begin from"
        raise UserError(
            what, where=str(run_dir), hint=f"wait for its end, or distft cancel {shlex.quote(str(run_dir))}"
        )


def _require_free(wish: Wish) -> None:
    """The folder is apart from the run's, and not there yet, empty, or that of a former replay which is over. Raises
    UserError."""
    folder, run_dir = wish.folder.resolve(), wish.run_dir.resolve()
    if folder.is_relative_to(run_dir) or run_dir.is_relative_to(folder):
        raise UserError("a replay writes nothing where the run lies", where=f"--output {wish.output}", hint=_ANOTHER)
    _require_replays(wish.folder)
    refuse_if_held(wish.folder)


def _require_replays(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError("is no folder", where=str(folder), hint=_ANOTHER)
    others = folder.is_dir() and any(not is_lease(path.name) for path in folder.iterdir())
    if others and not (folder / REPLAY).is_file():
        raise UserError("holds something else than a replay", where=str(folder), hint=_ANOTHER)


def _empty(folder: Path) -> None:
    """But for the lease, and for what says that the folder is a replay's."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != REPLAY and not is_lease(path.name):
            path.unlink()


def _former_plan(run_dir: Path) -> Plan | None:
    try:
        return Plan.model_validate_json((run_dir / PLAN).read_bytes())
    except (OSError, ValidationError):
        return None
