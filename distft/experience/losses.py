"""An algorithm's keys to the losses its updates name."""

from __future__ import annotations

from typing import Any

from distft.config.algorithms import Dpo, Ppo, Reward, Sft


def loss_parameters(algorithm: Sft | Reward | Dpo | Ppo, loss: str) -> dict[str, Any]:
    """The parameters of one of the algorithm's losses. Raises KeyError for a loss that it does not use."""
    if isinstance(algorithm, Ppo):
        of_role: dict[str, dict[str, Any]] = {
            "ppo_policy": {
                "clip": algorithm.clip,
                "clip_high": algorithm.clip_high,
                "dual_clip": algorithm.dual_clip,
                "entropy_coef": algorithm.entropy_coef,
            },
            "ppo_value": {"value_clip": algorithm.value_clip},
        }
        return of_role[loss]
    if loss != algorithm.kind:
        raise KeyError(loss)
    if isinstance(algorithm, Dpo):
        return {
            "beta": algorithm.beta,
            "loss": algorithm.loss,
            "label_smoothing": algorithm.label_smoothing,
            "discopop_tau": algorithm.discopop_tau,
            "rpo_alpha": algorithm.rpo_alpha,
        }
    if isinstance(algorithm, Reward):
        return {"center_coef": algorithm.center_coef, "margin": algorithm.margin}
    return {}
