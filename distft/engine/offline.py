"""Weights out of an engine checkpoint, without the ranks that wrote it."""

from __future__ import annotations

from pathlib import Path

import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor

from distft.engine.engine import CHECKPOINT_TAG


def consolidated_weights(folder: Path, *, trained_only: bool = False) -> dict[str, Tensor]:
    """All parameters, whole, by their names in the module, from what ``Engine.save`` wrote into ``folder``.

    Of a partly frozen module there are only those that were trained: say ``trained_only``.
    Float32 where the checkpoint has master weights (stages 1 to 3), else as trained.
    Raises FileNotFoundError where there is no engine state.
    """
    states = folder / CHECKPOINT_TAG
    if not states.is_dir():
        raise FileNotFoundError(f"no engine state in {folder}")
    if any(states.glob("*optim_states.pt")):
        found = get_fp32_state_dict_from_zero_checkpoint(
            str(folder), tag=CHECKPOINT_TAG, exclude_frozen_parameters=trained_only
        )
    else:
        found = torch.load(states / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=False)["module"]
    return dict(found)
