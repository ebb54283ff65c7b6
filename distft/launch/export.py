"""`distft export`: a plain Hugging Face folder from a finished run or from any checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distft.checkpoint.layout import MANIFEST, published
from distft.checkpoint.manifest import faults
from distft.common.errors import UserError
from distft.common.files import nearest_beside
from distft.common.sums import sum_faults, write_sums
from distft.config.load import load_recipe
from distft.config.roles import main_role
from distft.launch.kept_paths import found_again
from distft.launch.quantized_export import quantize, require_compressor, require_decoder
from distft.launch.sentence_folder import write_sentence_folder
from distft.launch.starts import model_starts, role_spec
from distft.tracking.metrics import RECIPE
from distft.workers.spec import RoleSpec

_ACCELERATOR = "DS_ACCELERATOR"


@dataclass(frozen=True)
class Exported:
    """``said``: what was done to the weights, and what it costs; empty where nothing was."""

    folder: Path
    said: str = ""


def export(source: Path, target: Path, scheme: str | None = None) -> Exported:
    """Writes ``target`` from a run folder (its result, else its newest checkpoint) or a checkpoint folder; its linear
    layers in a ``scheme`` of ``models.compressed``, if one is wanted.

    ``target`` appears whole or not at all. Raises UserError where there is nothing to export, the checkpoint
    or the result is damaged, the model cannot be quantized, or ``target`` is taken or cannot be written.
    """
    if scheme is not None:
        require_compressor(scheme)
    require_free(target)
    if not source.is_dir():
        near = nearest_beside(source)
        hint = f"did you mean {near}?" if near else "give a run folder or one of its checkpoints/step_... folders"
        raise UserError("there is no such folder", where=str(source), hint=hint)
    model = _model_in(source)
    if model is not None and (found := sum_faults(model)):
        raise _damaged("result", source, found)
    checkpoint = None if model else _checkpoint_in(source)
    said = ""
    with appearing(target) as draft:
        if scheme is None:
            _write_plain(model, checkpoint, draft)
        else:
            run_dir = source if checkpoint is None else checkpoint.absolute().parent.parent
            said = _write_quantized(model, checkpoint, draft, scheme, run_dir)
    return Exported(target, said)


def _write_plain(model: Path | None, checkpoint: Path | None, folder: Path) -> None:
    if model is not None:
        shutil.copytree(model, folder)
    elif checkpoint is not None:
        _from_checkpoint(checkpoint, folder)
        write_sums(folder)


def _write_quantized(model: Path | None, checkpoint: Path | None, folder: Path, scheme: str, run_dir: Path) -> str:
    """What was done, and what it costs."""
    if model is not None:
        require_decoder(model, scheme)
    recipe = found_again(load_recipe(str(run_dir / RECIPE)), run_dir)
    plain = folder.with_name(f"{folder.name}-plain")
    try:
        _write_plain(model, checkpoint, plain)
        require_decoder(plain, scheme)
        with without_accelerator():
            return quantize(plain, folder, scheme, recipe)
    finally:
        shutil.rmtree(plain, ignore_errors=True)


def require_free(target: Path) -> None:
    """Raises UserError where there is something."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        what = "is there already and not empty" if target.is_dir() else "is a file"
        raise UserError(what, where=str(target), hint="name a folder that does not exist yet")


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``target`` when all of it is there. Raises UserError where it cannot."""
    draft = target.with_name(f".{target.name}.draft-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.rename(target)
    except PermissionError as error:
        raise UserError(
            f"cannot be written: {error.strerror}", where=str(target), hint="name another folder"
        ) from error
    except (FileExistsError, NotADirectoryError) as error:
        what = f"cannot be made: {error.filename} is a file"
        raise UserError(what, where=str(target), hint="name another folder") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _model_in(source: Path) -> Path | None:
    """The result of a finished run, which is a model folder already."""
    final = source / "final"
    return final if (final / "config.json").is_file() else None


def _checkpoint_in(source: Path) -> Path:
    """The folder itself, or the newest whole checkpoint of a run. Raises UserError."""
    if (source / MANIFEST).is_file():
        found = faults(source)
        if found:
            raise _damaged("checkpoint", source, found)
        return source
    there = published(source / "checkpoints")
    reasons: list[str] = []
    for _, folder in there:
        found = faults(folder)
        if not found:
            return folder
        reasons = reasons or found
    if there:
        raise _damaged("checkpoint", there[0][1], reasons)
    if (source / "config.json").is_file():
        raise UserError("is a plain Hugging Face folder already", where=str(source), hint="use it as it is")
    what = "the run has neither a result nor a checkpoint yet" if (source / RECIPE).is_file() else "is no run folder"
    raise UserError(what, where=str(source), hint="give RUN_DIR or RUN_DIR/checkpoints/step_...")


def _damaged(name: str, folder: Path, reasons: list[str]) -> UserError:
    what = f"the {name} is damaged: {'; '.join(reasons[:3])}"
    return UserError(what, where=str(folder), hint="give another of the run's checkpoints")


def _from_checkpoint(checkpoint: Path, target: Path) -> None:
    """Shards to whole tensors, in the dtype that the run trains in: what the run itself exports at its end."""
    run_dir = checkpoint.absolute().parent.parent
    recipe = found_again(load_recipe(str(run_dir / RECIPE)), run_dir)
    role = main_role(recipe)
    start, spec = model_starts(recipe, run_dir)[role], role_spec(recipe, role)

    from distft.engine.states import whole_weights
    from distft.models.buffers import kept_buffers
    from distft.models.export import export_model
    from distft.models.families.family import family_at, find_family
    from distft.models.reading_back import check_saved
    from distft.models.tokenizer import load_tokenizer

    whole = whole_weights(checkpoint / role)
    spec = replace(spec, family=family_at(spec.family, start.path, spec.model))
    family = find_family(spec.family, spec.labels)
    model = family.empty(start.path, spec.model)
    check_saved(model, start.path)
    if spec.model.peft is not None:
        whole = _merged_into_start(spec, start.path, whole, target / "adapter")
    # A tied parameter once, under its first name, as the run's own export does; buffers keep their own precision.
    once = dict(model.named_parameters())
    weights = {name.removeprefix("model."): tensor for name, tensor in whole.items()}
    buffers = {name: weights[name] for name in kept_buffers(model) if name in weights}
    weights = {name: tensor.to(once[name].dtype) for name, tensor in weights.items() if name in once} | buffers
    tokenizer = load_tokenizer(start.path, trust_remote_code=start.trust_remote_code, chat_template=start.chat_template)
    with without_accelerator():
        export_model(model, weights, tokenizer, target, stops=family.stops(tokenizer, model, spec.stop_tokens))
    write_sentence_folder(recipe, target)


@contextmanager
def without_accelerator() -> Iterator[None]:
    """Saving a model imports DeepSpeed, which would look for a GPU, and say on stdout that there is none."""
    before = os.environ.get(_ACCELERATOR)
    os.environ[_ACCELERATOR] = "cpu"
    try:
        yield
    finally:
        del os.environ[_ACCELERATOR]
        if before is not None:
            os.environ[_ACCELERATOR] = before


def _merged_into_start(spec: RoleSpec, start: str, trained: dict[str, Any], adapter: Path) -> dict[str, Any]:
    """All weights of a run that trained adapters: where it started, and what it learned; writes ``adapter`` too."""
    import torch

    from distft.models.adapters.adapt import add_adapters
    from distft.models.adapters.merging import plain_tensors
    from distft.models.buffers import kept_buffers
    from distft.models.export import export_adapter
    from distft.models.families.family import find_family

    assert spec.model.peft is not None
    family = find_family(spec.family, spec.labels)
    module = family.load(start, spec.model, dropout=spec.dropout, new_head=True).module
    add_adapters(module.model, spec.model.peft, dropout=spec.dropout, seed=spec.seed, fresh=False)
    learned = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(trained[name])
        for name, buffer in kept_buffers(module).items():
            buffer.copy_(trained[name])
    kept = {name.removeprefix("model."): parameter.detach() for name, parameter in learned.items()}
    if spec.model.leaves_base:
        export_adapter(module.model, kept, start, adapter, family.peft_task)
    tensors = ((name, parameter.data) for name, parameter in module.named_parameters())
    buffers = {f"model.{name}": buffer for name, buffer in kept_buffers(module.model).items()}
    return {name: tensor.clone() for name, tensor in plain_tensors(tensors, module)} | buffers
