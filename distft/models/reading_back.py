"""Does transformers find again what it saves of a model? Asked with names and shapes alone, so it costs no memory.

What ``save_pretrained`` writes need not bear the module's own names: stacked experts are written apart, heads under
the name that the family's files have always had. So files are not compared with the module by name: they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from distft.common.errors import UserError
from distft.models.buffers import kept_buffers
from distft.models.load import quiet_transformers

Shape: TypeAlias = tuple[int, ...]


def check_saved(model: Any, path: str) -> None:
    """What a run that started from ``path`` would write of ``model`` (meta device, sharded or not) can be read again:
    in a second, in ten for a mixture of 45,000 expert tensors. Raises UserError.
    """
    try:
        require_readable(model, saved_shapes(model), "what would be exported")
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{type(model).__name__} cannot be exported: {error}",
            where=path,
            hint="another version of transformers may save this family whole",
        ) from error


def own_shapes(model: Any) -> dict[str, Shape]:
    """The shapes of parameters and kept buffers, whole, sharded or not, a tied one once, by the module's own names."""
    named = {**dict(model.named_parameters()), **kept_buffers(model)}
    return {name: tuple(getattr(one, "ds_shape", one.shape)) for name, one in named.items()}


def saved_shapes(model: Any) -> dict[str, Shape]:
    """What ``save_pretrained`` would write of the model (meta device, sharded or not), by the names in the file."""
    tensors = remove_tied_weights_from_state_dict(_on_meta(own_shapes(model)), model)
    return {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(model, tensors).items()}


def require_readable(model: Any, saved: Mapping[str, Shape], what: str) -> None:
    """A file with tensors of these names and shapes gives ``model`` again, nothing missing, too much or of another
    size. Raises ValueError, which begins with ``what``.
    """
    with quiet_transformers():
        _, info = type(model).from_pretrained(
            None,
            config=deepcopy(model.config),
            state_dict=_on_meta(saved),
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    differences = {
        "lacks": info["missing_keys"],
        "has too much:": info["unexpected_keys"],
        "changes the size of": {name for name, *_ in info["mismatched_keys"]},
    }
    faults = [f"{how} {', '.join(sorted(names)[:3])}" for how, names in differences.items() if names]
    faults += [str(error) for error in info["error_msgs"]]
    if faults:
        raise ValueError(f"{what} would not give the model again: it {'; '.join(faults)}")


def _on_meta(shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
