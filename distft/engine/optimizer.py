"""The optimizer that a trained engine is given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from distft.config.training import Optimizer


def build_optimizer(
    module: nn.Module, optimizer: Optimizer, device: torch.device, rate_ratio: Callable[[str], float]
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) or plain SGD, which couples the decay to the gradient.

    Only matrices and embeddings are decayed: biases and norms, which have one dimension, are not. These
    are the groups of Hugging Face's Trainer, found without its list of names; apart in them those with another
    ``rate_ratio``, which every group has beside its rate (see ``set_rate``).
    """
    members: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            undecayed = len(getattr(parameter, "ds_shape", parameter.shape)) < 2
            members.setdefault((undecayed, rate_ratio(name)), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": 0.0 if undecayed else optimizer.weight_decay, "rate_ratio": ratio}
        for (undecayed, ratio), parameters in sorted(members.items(), key=lambda member: member[0])
    ]
    if optimizer.name == "sgd":
        return torch.optim.SGD(groups, lr=optimizer.learning_rate)
    return torch.optim.AdamW(
        groups,
        lr=optimizer.learning_rate,
        betas=optimizer.betas,
        eps=optimizer.eps,
        fused=device.type in ("cuda", "cpu"),
    )


def set_rate(built: torch.optim.Optimizer, learning_rate: float) -> None:
    """The rate of the next step, of every group its multiple."""
    for group in built.param_groups:
        group["lr"] = learning_rate * group["rate_ratio"]
