"""The optimizer that a trained engine is given."""

from __future__ import annotations

import torch
from torch import nn

from distft.config.training import Optimizer


def build_optimizer(module: nn.Module, optimizer: Optimizer, device: torch.device) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) or plain SGD, which couples the decay to the gradient.

    Only matrices and embeddings are decayed: biases and norms, which have one dimension, are not. These
    are the groups of Hugging Face's Trainer, found without its list of names.
    """
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (decayed if len(getattr(parameter, "ds_shape", parameter.shape)) >= 2 else rest).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": optimizer.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if optimizer.name == "sgd":
        return torch.optim.SGD(groups, lr=optimizer.learning_rate)
    return torch.optim.AdamW(
        groups,
        lr=optimizer.learning_rate,
        betas=optimizer.betas,
        eps=optimizer.eps,
        fused=device.type in ("cuda", "cpu"),
    )
