"""`distft export`: a plain Hugging Face folder from a finished run or from any checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

from distft.checkpoint.layout import published
from distft.checkpoint.manifest import faults
from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.config.roles import main_role, model_of
from distft.launch.starts import CAUSAL_ROLES, model_starts


def export(source: Path, target: Path) -> Path:
    """Writes ``target`` from a run folder (its result, else its newest checkpoint) or a checkpoint folder.

    Raises UserError where there is nothing to export, the checkpoint is damaged, or ``target`` is taken.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError("is there already and not empty", where=str(target), hint="name a folder that does not exist yet")
    if not source.is_dir():
        raise UserError("no such folder", where=str(source), hint="a run folder or one of its checkpoints/step_... folders")
    final = source / "final"
    if (final / "config.json").is_file():
        shutil.copytree(final, target, dirs_exist_ok=True)
        return target
    checkpoint = source if (source / "manifest.json").is_file() else _newest(source)
    found = faults(checkpoint)
    if found:
        raise UserError(f"the checkpoint is damaged: {'; '.join(found)}", where=str(checkpoint))
    _from_checkpoint(checkpoint, target)
    return target


def _newest(run_dir: Path) -> Path:
    there = published(run_dir / "checkpoints")
    if not there:
        raise UserError(
            "neither a finished run nor a checkpoint", where=str(run_dir), hint="give RUN_DIR or RUN_DIR/checkpoints/step_..."
        )
    return there[0][1]


def _from_checkpoint(checkpoint: Path, target: Path) -> None:
    """Shards to whole tensors, in the dtype that the run trains in."""
    from distft.engine.offline import consolidated_weights
    from distft.models.export import export_model
    from distft.models.load import DTYPES, empty_causal, empty_scalar, load_tokenizer

    run_dir = checkpoint.parent.parent
    recipe = load_recipe(str(run_dir / "recipe.yaml"))
    role = main_role(recipe)
    start, model = model_starts(recipe, run_dir)[role], model_of(recipe, role)
    build = empty_causal if role in CAUSAL_ROLES else empty_scalar
    dtype = DTYPES[model.dtype]
    weights = {
        name.removeprefix("model."): tensor.to(dtype) for name, tensor in consolidated_weights(checkpoint / role).items()
    }
    tokenizer = load_tokenizer(start.path, trust_remote_code=start.trust_remote_code)
    export_model(build(start.path, model), weights, tokenizer, target)
