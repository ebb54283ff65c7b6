"""Checks before anything is started: what would fail after minutes of loading fails here in a second.

No torch, no ray. Every finding is one message: UserError (exit 2) for what the user wrote,
EnvironmentFallsShort (exit 3) for what the machine lacks.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from distft.checkpoint.layout import checkpoints_folder, published
from distft.common.errors import EnvironmentFallsShort, UserError, nearest
from distft.config.data import PTX_KIND, Source
from distft.config.evaluation_rules import example_of_best
from distft.config.recipe import Recipe
from distft.config.reward_servers import JudgeReward
from distft.config.roles import (
    kept_roles,
    main_role,
    model_of,
    reward_functions,
    reward_servers,
    trained_roles,
)
from distft.data.bad_rows import BadRows, OnBadRow, stop
from distft.data.source_names import GENERAL_KIND, general_source, local_hint
from distft.data.sources import check_rows, is_builtin, source_files
from distft.groups.memory_folder import MEMORY
from distft.launch.machine import free_memory, this_machine
from distft.launch.preflight import remarks
from distft.launch.preflight.held_out_rows import check_held_out
from distft.launch.preflight.hub import check_on_hub, in_datasets_cache, is_offline
from distft.launch.preflight.models import check_models
from distft.launch.preflight.named_code import check_named_code
from distft.planning.machine import GIB, Machine
from distft.planning.memory import BYTES
from distft.planning.plan import Plan
from distft.rollout.json_server import token_of
from distft.tracking.glossary import better, directed

# Rows of each source that are parsed; the data worker reads them all.
FIRST_ROWS = 50


def preflight(recipe: Recipe, plan: Plan, *, machine: Machine | None = None, to_start: bool = True) -> tuple[str, ...]:
    """Everything that can be known before Ray starts. Returns warnings. ``to_start`` False: nothing will be written
    from here now, so the run folder and its disk are not looked at.

    Raises UserError or EnvironmentFallsShort for the first thing that is wrong.
    """
    if plan.kind == "local":
        check_machine(plan, machine or this_machine())
        check_copies(recipe, plan)
    check_memory(plan)
    if to_start:
        check_output_dir(Path(recipe.output_dir))
        if recipe.data.cache_dir is not None:
            store = {
                "what": "the folder of tokenised rows",
                "where": "data.cache_dir",
                "example": "data.cache_dir=FOLDER",
            }
            check_output_dir(Path(recipe.data.cache_dir), **store)
    check_choice(recipe)
    check_waiting(recipe, plan)
    for function in reward_functions(recipe):
        check_named_code(function)
    environment = recipe.rollout.environment
    if environment is not None and environment.name is not None:
        check_named_code(environment.name, "rollout.environment.name", files=True)
    if environment is not None and environment.http is not None:
        token_of(environment.http, "rollout.environment.http")
    for key, server in reward_servers(recipe).items():
        token_of(server, key)
    warnings = [
        *remarks.on_models(recipe),
        *remarks.on_numbers(recipe),
        *remarks.on_environment(recipe),
        *remarks.on_judges(recipe),
        *remarks.on_samples(recipe),
        *remarks.on_virtual_tokens(recipe, plan),
        *remarks.on_waiting(recipe, plan),
        *check_models(recipe),
    ]
    kind = recipe.algorithm.kind
    for at, list_name, source in _sources(recipe):
        bad = BadRows(recipe.data, list_name)
        warnings += [f"{at}: {note}" for note in check_source(source, kind, list_name, bad, key=f"{at}.path")]
    check_held_out(recipe)
    if recipe.evaluation.general is not None:
        at, source = "evaluation.general", general_source(recipe.evaluation.general)
        warnings += [f"{at}: {note}" for note in check_source(source, GENERAL_KIND, "test", key=at)]
    for number, source in enumerate(recipe.data.ptx):
        at, bad = f"data.ptx.{number}", BadRows(recipe.data, "train")
        warnings += [f"{at}: {note}" for note in check_source(source, PTX_KIND, "train", bad, key=f"{at}.path")]
    if to_start:
        check_disk(recipe, plan)
    return (*warnings, *_short_of_memory(plan))


def check_waiting(recipe: Recipe, plan: Plan) -> None:
    """A Slurm job gets no node in the place of a lost one but those that it has in reserve. Raises UserError."""
    if recipe.recovery.wait_for_nodes and plan.kind == "slurm" and not plan.hardware.spare_nodes:
        raise UserError(
            f"a Slurm job ({plan.cluster}) gets no other node for one that it loses, and this one has none in reserve",
            where="recovery.wait_for_nodes",
            hint="distft submit slurm ... --slurm spare_nodes=1 (in the cluster file: slurm.spare_nodes); or "
            "recovery.wait_for_nodes=0, and submitted again the run goes on from its checkpoint on other nodes",
        )


def check_choice(recipe: Recipe) -> None:
    """The metric of ``evaluation.best`` is better in one direction: by its meaning, or as a reward function or model
    that counts for its answers. Raises UserError."""
    best, reward = recipe.evaluation.best, recipe.models.reward
    if best is None or better(best):
        return
    names = [name.rpartition(":")[2] for name in reward_functions(recipe)]
    weights = dict(zip(names, (reward and reward.weights) or (1.0,) * len(names), strict=True))
    for server in reward_servers(recipe).values():  # what a judge prefers is better, also where it only looks on
        weights[server.name] = server.weight or float(isinstance(server, JudgeReward))
    weights |= {name: model.weight for name, model in recipe.models.rewards.items()}
    if recipe.models.rewards and reward is not None:
        weights["reward"] = reward.weight
    weight = weights.get(best.removeprefix("rewards/"), 0) if best.startswith("rewards/") else 0
    if weight > 0:
        return
    close = "" if weight else nearest(best, directed())
    hint = f"did you mean {close}?" if close else example_of_best(recipe)
    raise UserError(f"{best} is not better by being higher or lower", where="evaluation.best", hint=hint)


def check_machine(plan: Plan, machine: Machine) -> None:
    """The CPUs and GPUs that the plan counts on are there. Raises EnvironmentFallsShort."""
    asked = {"CPUs": (plan.hardware.cpus, machine.cpus), "GPUs": (plan.hardware.gpus, machine.gpus)}
    for what, (planned, there) in asked.items():
        if planned > there:
            raise EnvironmentFallsShort(
                f"the plan counts on {planned} {what}, this machine has {there}",
                where=f"cluster {plan.cluster}",
                hint="plan again for this machine: --cluster local",
            )


def check_memory(plan: Plan, *, must_know: bool = False) -> None:
    """The plan fits. Raises UserError with the changes that would make it fit; where that cannot be known and it
    ``must_know``, EnvironmentFallsShort.
    """
    where = f"{plan.recipe} on {plan.cluster}"
    if plan.fits is None and must_know:
        unknown = [f"{role}: {memory.unknown}" for role, memory in plan.memory.items() if memory.unknown]
        hint = "; ".join(unknown) or "the cluster file does not say how much memory its GPUs have"
        raise EnvironmentFallsShort("whether it fits is not known", where=where, hint=hint)
    if plan.fits is not False:
        return
    load = max((load for load in plan.loads if load.capacity), key=lambda load: load.bytes / load.capacity)
    what = f"does not fit: {load.where} would need {load.bytes / GIB:.1f} GiB of {load.capacity / GIB:.1f}"
    would = [f"{remedy.change} ({remedy.cost})" for remedy in plan.remedies]
    hint = "what would: " + "; or ".join(would) if would else "a smaller model, or more and larger nodes"
    raise UserError(what, where=where, hint=hint)


def check_output_dir(
    output_dir: Path,
    *,
    what: str = "the run folder",
    where: str = "output_dir",
    example: str = "output_dir=runs/NAME",
) -> None:
    """The folder is there or can be made, and can be written. Leaves nothing behind. Raises UserError."""
    made: list[Path] = []
    try:
        missing = [folder for folder in (output_dir, *output_dir.parents) if not folder.exists()]
        for folder in reversed(missing):
            with suppress(FileExistsError):  # of another run that starts just now; or a file, see below
                folder.mkdir()
                made.append(folder)
        if not output_dir.is_dir():
            raise NotADirectoryError(0, "is a file, not a folder", str(output_dir))
        if not os.access(output_dir, os.W_OK | os.X_OK):
            raise PermissionError(0, "cannot be written", str(output_dir))
    except OSError as error:
        raise UserError(
            f"{what} {_shortened(output_dir)}: {_in_the_way(output_dir, error)}",
            where=where,
            hint=f"give another: {example}",
        ) from None
    finally:
        with suppress(OSError):  # somebody else has put something there meanwhile
            for folder in reversed(made):
                folder.rmdir()


def _in_the_way(output_dir: Path, error: OSError) -> str:
    """What keeps a folder from being made: a file or a dead link on its way, a name that no file can have, or else."""
    if error.errno == errno.ENAMETOOLONG:
        return f"the name {_shortened(max(output_dir.parts, key=len))} is too long for a file"
    for folder in (output_dir, *output_dir.parents):
        if folder.is_symlink() and not folder.exists():
            return f"{folder} is a link to {os.readlink(folder)}, which is not there"
        if folder.is_file():
            return f"{folder} is a file, not a folder"
    why = "cannot be written" if isinstance(error, PermissionError) else f"cannot be made: {error.strerror}"
    return f"{error.filename or output_dir} {why}"


def _shortened(path: Path | str) -> str:
    text = str(path)
    return text if len(text) <= 120 else f"{text[:60]}... ({len(text)} characters)"


def checkpoint_bytes(recipe: Recipe, plan: Plan) -> int:
    """Bytes of one checkpoint: of what each role trains, the weights in float32 and the optimizer's states, once; of a
    frozen one that it holds the weights."""
    trained = trained_roles(recipe)
    return sum(
        plan.memory[role].kept
        if role in trained
        else plan.memory[role].parameters * BYTES[model_of(recipe, role).dtype]
        for role in kept_roles(recipe)
    )


def room_needed(recipe: Recipe, plan: Plan) -> tuple[int, int]:
    """How many checkpoints the run will need new room for, and the bytes of these and of its final model.

    Those that are kept and the one being written, as far as the steps to come write any; what lies in the run folder
    of a run that goes on has its room.
    """
    kept, newest = 0, 0
    if recipe.checkpoint.resume == "auto":
        there = published(checkpoints_folder(Path(recipe.output_dir)))
        kept, newest = min(len(there), recipe.checkpoint.keep), there[0][0] if there else 0
    number, steps, every = recipe.checkpoint.keep + 1 - kept, recipe.train.steps, recipe.checkpoint.every
    if steps is not None:
        number = min(number, -(-steps // every) - newest // every if newest < steps else 0)
    role = main_role(recipe)
    final = plan.memory[role].parameters * BYTES[model_of(recipe, role).dtype]
    return number, number * checkpoint_bytes(recipe, plan) + final


def check_disk(recipe: Recipe, plan: Plan) -> None:
    """Room for the checkpoints to come and the final model. Raises EnvironmentFallsShort."""
    output_dir = Path(recipe.output_dir).absolute()
    there = next(folder for folder in (output_dir, *output_dir.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    one, (number, needed) = checkpoint_bytes(recipe, plan), room_needed(recipe, plan)
    if needed <= free:
        return
    fewer = range(recipe.checkpoint.keep - 1, 0, -1)
    fitting = next((keep for keep in fewer if room_needed(_keeping(recipe, keep), plan)[1] <= free), None)
    nearest = f"checkpoint.keep={fitting} would fit" if fitting else "free some space"
    raise EnvironmentFallsShort(
        f"{number} checkpoint{'' if number == 1 else 's'} of {one / GIB:.1f} GiB and the final model "
        f"need {needed / GIB:.1f} GiB, {there} has {free / GIB:.1f} GiB free",
        where="checkpoint.keep",
        hint=f"nearest: {nearest}, or another output_dir",
    )


def check_copies(recipe: Recipe, plan: Plan) -> None:
    """Of a run on this machine alone: room for two copies of all states in its tmpfs. Raises EnvironmentFallsShort."""
    needed = 2 * checkpoint_bytes(recipe, plan) if recipe.checkpoint.memory_every else 0
    free = shutil.disk_usage(MEMORY).free if needed and MEMORY.is_dir() else 0
    if needed > free:
        raise EnvironmentFallsShort(
            f"two copies of all states need {needed / GIB:.2f} GiB, {MEMORY} has {free / GIB:.2f} GiB free",
            where="checkpoint.memory_every",
            hint=f"give {MEMORY} more (a container: --shm-size), or checkpoint.memory_every=0",
        )


def _keeping(recipe: Recipe, keep: int) -> Recipe:
    return recipe.model_copy(update={"checkpoint": recipe.checkpoint.model_copy(update={"keep": keep})})


def check_source(source: Source, kind: str, list_name: str, on_bad: OnBadRow = stop, *, key: str) -> tuple[str, ...]:
    """A local or embedded source exists and its first rows parse; of a hub name that it is there. The data worker
    reads the rest. ``key``: where its path is said. Returns what there is to know, of how its columns are read, say.

    Raises UserError, and EnvironmentFallsShort where the hub does not answer.
    """
    if is_builtin(source) or source_files(source, list_name):
        return check_rows(source, kind, FIRST_ROWS, list_name, on_bad).notes
    if is_offline() or in_datasets_cache(source.path):
        return ()
    return (check_on_hub("dataset", source.path, where=key, near=local_hint(source.path)),)


def _sources(recipe: Recipe) -> Iterator[tuple[str, str, Source]]:
    """Key, list and source of all that there are."""
    for list_name, sources in (("train", recipe.data.train), ("eval", recipe.data.eval), ("test", recipe.data.test)):
        for number, source in enumerate(sources):
            yield f"data.{list_name}.{number}", list_name, source


def _short_of_memory(plan: Plan) -> Iterator[str]:
    if plan.kind != "local":
        return
    needed = max(load.bytes for load in plan.loads if load.kind == "node")
    free = free_memory()
    if needed > free:
        yield f"about {needed / GIB:.1f} GiB will be needed, {free / GIB:.1f} GiB are free now"
