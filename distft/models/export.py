"""Gathered weights to a plain Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


def export_model(model: Any, weights: dict[str, Tensor], tokenizer: Any, folder: Path) -> None:
    """Writes weights, config, tokenizer and chat template; then reopens them and compares the shapes.

    Under ZeRO-3 a plain ``save_pretrained`` writes empty tensors and says nothing: hence the second look.
    Raises ValueError.
    """
    config = model.config
    config.use_cache = True
    model.save_pretrained(folder, state_dict=_with_tied(model, weights))
    config.use_cache = False
    tokenizer.save_pretrained(folder)
    written: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            written |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    wrong = [name for name, tensor in weights.items() if written.get(name, tuple(tensor.shape)) != tuple(tensor.shape)]
    absent = [name for name in weights if name not in written and not _is_tied(model, name)]
    if wrong or absent:
        raise ValueError(f"export to {folder} is incomplete: {', '.join((wrong + absent)[:5])}")


def _is_tied(model: Any, name: str) -> bool:
    return name in (getattr(model, "all_tied_weights_keys", None) or {})


def _with_tied(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    buffers = {name: value for name, value in model.state_dict().items() if name in dict(model.named_buffers())}
    return {**buffers, **weights}
