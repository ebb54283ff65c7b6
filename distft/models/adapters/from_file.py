"""What a file holds of a trained adapter, for the parameters of a model that has one of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from distft.common.errors import UserError
from distft.models.adapters.adapt import is_adapter, saved_name
from distft.models.adapters.layers import scoring_heads


def head_names(model: Any) -> set[str]:
    """The names of the parameters of a scoring head; none of a language model."""
    heads = {id(parameter) for head in scoring_heads(model) for parameter in head.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in heads}


def in_file(model: Any, path: Path, where: str) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Every parameter of the model's adapters and scoring head with its value in PEFT's file at ``path``.

    Raises UserError, which says ``where`` the file is named, where one of them is not there or has another shape, or
    the file holds more.
    """
    heads = head_names(model)
    wanted = {saved_name(name): parameter for name, parameter in model.named_parameters()
              if is_adapter(name) or name in heads}  # fmt: skip
    hint = "is it the adapter of this model?"
    try:
        with safe_open(path, framework="pt") as file:
            if unlike := sorted(set(file.keys()) ^ set(wanted)):
                raise UserError(f"{path} and the model differ in {', '.join(unlike[:3])}", where=where, hint=hint)
            for name, parameter in wanted.items():
                value, shape = file.get_tensor(name), getattr(parameter, "ds_shape", parameter.shape)
                if value.shape != shape:
                    what = f"{path}: {name} is {list(value.shape)}, in the model {list(shape)}"
                    raise UserError(what, where=where, hint=hint)
                if not value.isfinite().all():
                    raise UserError(f"{path}: {name} holds NaN or infinity", where=where, hint="train it again")
                yield parameter, value
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}", where=where, hint="copy it again") from error
