"""Second shards: neighbouring ranks hold all parameters between them once more (hpZ of ZeRO++, Wang et al. 2023).

DeepSpeed makes a rank's second shard when a gathered parameter is let go, and reads it until the next optimizer step or
loaded checkpoint. Which ranks are neighbours it keeps in a variable of the process, and makes once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from deepspeed.utils import groups
from torch import nn


def forget_neighbours() -> None:
    """Before a model is loaded in a process that has had another: which may have had others, or none."""
    groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None


def second_shards(parameters: Iterable[nn.Parameter]) -> list[Any]:
    """Those of which this rank holds a second shard now, ``ds_secondary_tensor``."""
    return [one for one in parameters if getattr(one, "ds_secondary_tensor", None) is not None]


def drop_second_shards(parameters: Iterable[nn.Parameter]) -> None:
    """Lets go of them: each is made anew when its parameter has next been gathered, over all ranks."""
    for parameter in second_shards(parameters):
        parameter.ds_secondary_tensor = None
