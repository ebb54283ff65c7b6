"""Gathered weights to a plain Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig

from distft.models.adapters.adapt import in_files, is_adapter
from distft.models.adapters.layers import ADAPTER
from distft.models.dropout import as_written
from distft.models.load import quiet_transformers
from distft.models.padding import padding
from distft.models.reading_back import own_shapes, require_readable
from distft.models.tying import say_untied
from distft.planning.model_folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS


def export_model(
    model: Any,
    weights: dict[str, Tensor],
    tokenizer: Any,
    folder: Path,
    written: Any = None,
    stops: Sequence[int] = (),
) -> None:
    """Writes weights, config, tokenizer and chat template as transformers saves them, and looks whether it finds all
    of them again: experts that a module keeps stacked lie apart in the file, heads have other names there.

    ``weights`` are all of the model's parameters and kept buffers under its own names. ``written`` is the config that
    the model was loaded with: its dropouts are what the new one says, whatever they were here. ``stops`` end a
    generation. Under ZeRO-3 a plain ``save_pretrained`` writes empty tensors and says nothing: hence a look before as
    well. Raises ValueError.
    """
    wanted = own_shapes(model)
    wrong = [name for name, shape in wanted.items() if name not in weights or tuple(weights[name].shape) != shape]
    if wrong:
        raise ValueError(f"export to {folder} is incomplete: {', '.join(sorted(wrong)[:5])}")
    with as_written(model.config, written or model.config), _saveable(model, tokenizer, stops), quiet_transformers():
        model.save_pretrained(folder, state_dict=dict(weights))
    say_untied(model, folder)
    tokenizer.save_pretrained(folder)
    _readable_alike(folder, folder / "config.json")
    require_readable(model, _shapes(folder), f"the export in {folder}")


def export_adapter(model: Any, trained: dict[str, Tensor], base: str, folder: Path, task: str) -> None:
    """The adapter by itself, as PEFT reads it (``PeftModel.from_pretrained(base, folder)``).

    ``trained`` are the parameters of the adapters, and of a head that was trained whole with them; what is kept of them
    ``in_files`` says. ``task``: PEFT's word for what the model's family does. It is read again: a tensor that is empty,
    as one that ZeRO-3 has not gathered would be, or holds NaN, raises ValueError.
    """
    config = copy(model.peft_config[ADAPTER])
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.task_type = task
    whole = {name.rpartition(".")[0] for name in trained if not is_adapter(name)}
    if whole:
        config.modules_to_save = sorted(whole)
    for key, value in vars(config).items():
        if isinstance(value, set):  # whose order is another in every process
            setattr(config, key, sorted(value))
    tensors = in_files(model, config, trained)
    config.save_pretrained(str(folder))
    path = folder / ADAPTER_WEIGHTS
    save_file(tensors, path, metadata={"format": "pt"})
    _readable_alike(folder, folder / ADAPTER_CONFIG)
    _require_whole(path, tensors)


def _require_whole(path: Path, written: Mapping[str, Tensor]) -> None:
    """The file, read again, holds those tensors, none of them empty, all of them numbers. Raises ValueError."""
    with safe_open(path, framework="pt") as file:
        for name, tensor in written.items():
            found = file.get_tensor(name)
            if found.shape != tensor.shape or not found.numel():
                raise ValueError(f"{path} is not whole: {name} has the shape {list(found.shape)}")
            if not found.isfinite().all():
                raise ValueError(f"{path} is spoilt: {name} holds NaN or infinity")


def _readable_alike(folder: Path, example: Path) -> None:
    """safetensors keeps its files to the owner alone, whatever the umask says; colleagues and containers read them."""
    mode = example.stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


@contextmanager
def _saveable(model: Any, tokenizer: Any, stops: Sequence[int]) -> Iterator[None]:
    """The model's settings as a user wants to find them, for as long as they are written."""
    config, generation = model.config, getattr(model, "generation_config", None)
    text = config.get_text_config()
    before = getattr(config, "use_cache", None), getattr(text, "pad_token_id", None)
    if before[0] is not None:  # an encoder has no cache to use
        config.use_cache = True
    if before[1] is None or hasattr(model, "score"):  # a reward model is read where this token begins
        text.pad_token_id = padding(tokenizer, config)
    if generation is not None:
        model.generation_config = _settings(generation, stops)
    try:
        yield
    finally:
        text.pad_token_id = before[1]
        if before[0] is not None:
            config.use_cache = before[0]
        if generation is not None:
            model.generation_config = generation


def _settings(generation: GenerationConfig, stops: Sequence[int]) -> GenerationConfig:
    """Generation settings that can be saved: saving would refuse some that loading took, at the end of a run."""
    settings = deepcopy(generation)
    if not _is_valid(generation):
        named = ("bos_token_id", "eos_token_id", "pad_token_id")
        kept = {name: getattr(generation, name) for name in named}
        settings = GenerationConfig(**kept)  # type: ignore[no-untyped-call]
    if stops:
        settings.eos_token_id = list(stops) if len(stops) > 1 else stops[0]
    return settings


def _is_valid(generation: GenerationConfig) -> bool:
    try:
        generation.validate(strict=True)
    except ValueError:
        return False
    return True


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    return found
