"""A run folder seen from the start of a run: is it new, does it go on, is it finished, is it another run's?"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from distft.checkpoint.layout import checkpoints_folder, published
from distft.common.errors import UserError
from distft.common.files import parse_json, write_atomic
from distft.common.sums import sum_faults
from distft.config.load import load_recipe, resolved_yaml
from distft.config.recipe import Recipe
from distft.config.role_table import FURTHER, ROLES
from distft.config.yaml_file import dump_yaml, leaves, read_yaml
from distft.controller.rollback import ROLLBACKS
from distft.launch.kept_paths import anchored, same_place
from distft.tracking.exit import read_exit
from distft.tracking.metrics import METRICS, RECIPE

_SHOWN = 3  # changed keys named in a message
# What may change between attempts: how far, how often, how it is watched, and on what; not what is computed.
_MAY_CHANGE = (
    "name", "output_dir", "train.steps", "train.epochs", "checkpoint", "recovery", "evaluation", "tracking",
    "data.num_workers", "data.cache_dir", "rollout.environment.step_deadline_s", "rollout.environment.http",
    "placement", *(f"models.{role}.engine" for role in ROLES),
)  # fmt: skip
_FURTHER_ENGINE = re.compile(rf"models\.{re.escape(FURTHER)}[^.]+\.engine(\.|$)")


def essential(recipe: Recipe) -> dict[str, Any]:
    """The recipe's keys that decide what is computed, by dotted name."""
    tree = yaml.safe_load(resolved_yaml(recipe))
    return {key: value for key, value in leaves(tree) if not _may_change(key)}


def fingerprint(recipe: Recipe) -> str:
    """A hash of what is computed, kept in every checkpoint's manifest."""
    return hashlib.sha256(json.dumps(essential(recipe), sort_keys=True, default=str).encode()).hexdigest()


def require_same_run(recipe: Recipe, run_dir: Path) -> None:
    """Raises UserError where the folder holds a run of another recipe: resuming it would mix two runs; and where it
    holds a recipe of the user's.

    A run that has taken no step holds nothing: the folder takes another recipe, such as the one that mends it.
    """
    path = run_dir / RECIPE
    if not path.is_file():
        return
    if not has_steps(run_dir):
        if _by_hand(path):
            what = f"{path} was written by hand, and the run would write its own in its place"
            raise UserError(what, where="output_dir", hint="give another: output_dir=runs/NAME")
        return
    changed = _changed(_kept(path), essential(recipe), ("there", "now"))
    if changed:
        raise UserError(
            f"the run folder holds a run of another recipe: {changed}",
            where=str(run_dir),
            hint="give another output_dir, or start again in this one with checkpoint.resume=never",
        )


def require_one_recipe(one: Path, other: Path) -> None:
    """Raises UserError where two run folders are not of one recipe, the code of a method from outside aside: then they
    are not meant to compute the same."""
    first, second = (
        {key: value for key, value in _kept(run_dir / RECIPE).items() if key != "algorithm.code"}
        for run_dir in (one, other)
    )
    if changed := _changed(first, second, ("in the first", "in the second")):
        what = f"the runs are of two recipes: {changed}"
        hint = f"distft compare {shlex.quote(str(one))} {shlex.quote(str(other))} shows where such runs ended"
        raise UserError(what, where=str(other), hint=hint)


def _changed(former: dict[str, Any], now: dict[str, Any], said: tuple[str, str]) -> str:
    """The keys that differ, in words, not all of many; empty where none does."""
    changed = [key for key in sorted({*former, *now}) if not same_place(key, former.get(key), now.get(key))]
    shown = [
        f"{key}: {_short(former.get(key))} {said[0]}, {_short(now.get(key))} {said[1]}" for key in changed[:_SHOWN]
    ]
    more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return "; ".join(shown) + more


def _kept(path: Path) -> dict[str, Any]:
    """The keys that decide what is computed, of a recipe that a run has kept: with today's defaults for those that
    came after it, and as they stand where it cannot be read as a recipe any more."""
    try:
        return essential(load_recipe(str(path)))
    except UserError:
        return {key: value for key, value in leaves(_tree(path)) if not _may_change(key)}


def _by_hand(path: Path) -> bool:
    """Whether a recipe leaves sections out, as no run's record does."""
    try:
        kept = read_yaml(path).data
    except UserError:
        return False
    return isinstance(kept, dict) and not set(kept) >= set(Recipe.model_fields)


def _tree(path: Path) -> dict[str, Any]:
    """What a run has kept of its recipe, read as a tree. Raises UserError where it is damaged."""
    try:
        kept = read_yaml(path).data
    except UserError as error:
        raise _unreadable(path, error.what) from error
    if not isinstance(kept, dict):
        raise _unreadable(path, "holds no mapping of keys")
    return kept


def _unreadable(path: Path, why: str) -> UserError:
    remedy = f"if you are sure that the run was started with this very recipe: rm {shlex.quote(str(path))}"
    return UserError(f"the run's own record of its recipe is damaged: it {why}", where=str(path.parent), hint=remedy)


def has_steps(run_dir: Path) -> bool:
    """Whether a run in the folder has taken a step, by its checkpoints, its result, its ledger and what it went back
    on."""
    if published(checkpoints_folder(run_dir)) or any((run_dir / name).exists() for name in ("final", ROLLBACKS)):
        return True
    ledger = run_dir / METRICS
    if not ledger.is_file():
        return False
    with ledger.open(encoding="utf-8", errors="replace") as lines:
        return any('"split": "train"' in line for line in lines)


def is_finished(recipe: Recipe, run_dir: Path) -> bool:
    """Whether this very run has ended well: its result is there and whole, and as many steps were asked for then as
    now. A damaged result is made again from the last checkpoint."""
    ended, final = read_exit(run_dir), run_dir / "final"
    if not ended or ended.get("exit_status") != 0 or not (final / "config.json").is_file() or sum_faults(final):
        return False
    if not (run_dir / RECIPE).is_file():
        return False
    former, asked = _tree(run_dir / RECIPE).get("train"), recipe.model_dump(mode="json")["train"]
    return isinstance(former, dict) and all(former.get(key) == asked.get(key) for key in ("steps", "epochs"))


def write_recipe(recipe: Recipe, run_dir: Path) -> None:
    """The resolved recipe, secrets hidden, local paths absolute."""
    write_atomic(run_dir / RECIPE, dump_yaml(anchored(yaml.safe_load(resolved_yaml(recipe)))))


def next_attempt(run_dir: Path) -> int:
    """1 for a new run, one more for every start before."""
    events = run_dir / "events.jsonl"
    if not events.is_file():
        return 1
    starts = 0
    for line in events.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            starts += parse_json(line).get("event") == "start"
        except (ValueError, AttributeError):
            continue
    return starts + 1


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _may_change(key: str) -> bool:
    return _FURTHER_ENGINE.match(key) is not None or any(
        key == name or key.startswith(f"{name}.") for name in _MAY_CHANGE
    )
