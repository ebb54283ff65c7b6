"""The optimizer that a trained engine is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from distft.config.optimizers.adafactor import Adafactor
from distft.config.optimizers.adamw import AdamW, EightBitAdamW
from distft.config.optimizers.lion import Lion
from distft.config.optimizers.muon import Muon, in_layers, makes_orthogonal
from distft.config.optimizers.optimizer import Optimizer
from distft.config.optimizers.sgd import Sgd
from distft.engine.layer_rates import layer_ratios
from distft.engine.pieces import pieces_anywhere
from distft.engine.rules.lion import Lion as LionRule
from distft.engine.rules.muon import Muon as MuonRule
from distft.engine.rules.rounded_adamw import RoundedAdamW
from distft.models.quantization import silence_bitsandbytes


def build_optimizer(
    module: nn.Module, optimizer: Optimizer, device: torch.device, rate_ratio: Callable[[str], float]
) -> torch.optim.Optimizer:
    """The optimizer of that section, over the weights that are trained.

    Only matrices and embeddings are decayed: biases and norms, which have one dimension, are not; Hugging Face's
    Trainer makes the same two groups from a list of names. Each is split further, by the multiple of the optimizer's
    rate (``rate_ratio`` of a weight's name, times its layer's share; see ``set_rate``), and by whether Muon makes its
    weights orthogonal.
    """
    by_layer = layer_ratios(module, optimizer.layer_decay)
    members: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)
            turned = isinstance(optimizer, Muon) and makes_orthogonal(shape, in_layers=in_layers(name))
            members.setdefault((len(shape) < 2, turned, rate_ratio(name) * by_layer[name]), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": 0.0 if undecayed else optimizer.weight_decay, "rate_ratio": ratio,
         "orthogonal": turned}
        for (undecayed, turned, ratio), parameters in sorted(members.items(), key=lambda member: member[0])
    ]  # fmt: skip
    return _of_kind(groups, optimizer, device)


def _of_kind(groups: list[dict[str, Any]], optimizer: Optimizer, device: torch.device) -> torch.optim.Optimizer:
    rate = optimizer.learning_rate
    match optimizer:
        case Sgd():
            return torch.optim.SGD(groups, lr=rate)
        case Adafactor():
            return torch.optim.Adafactor(groups, lr=rate, foreach=False)  # together they would need memory for all
        case Lion():
            return LionRule(groups, rate, optimizer.betas)
        case Muon():
            return MuonRule(groups, rate, optimizer.momentum, optimizer.betas, optimizer.eps)
        case EightBitAdamW():
            silence_bitsandbytes()
            from distft.engine.rules.adamw_8bit import EightBitAdamW as EightBitRule

            return EightBitRule(groups, rate, optimizer.betas, optimizer.eps, paged=optimizer.paged)
        case AdamW(state_dtype="bfloat16"):
            return RoundedAdamW(groups, rate, optimizer.betas, optimizer.eps)
        case AdamW():
            fused = device.type in ("cuda", "cpu")
            return torch.optim.AdamW(groups, lr=rate, betas=optimizer.betas, eps=optimizer.eps, fused=fused)
    raise TypeError(type(optimizer).__name__)


def set_rate(built: torch.optim.Optimizer, learning_rate: float) -> None:
    """The rate of the next step, of every group its multiple."""
    for group in built.param_groups:
        group["lr"] = learning_rate * group["rate_ratio"]


def tell_layout(built: Any, module: nn.Module, zero_stage: int) -> None:
    """Says to a rule that needs whole matrices where they are; ``built``: the optimizer as DeepSpeed has it."""
    rule = getattr(built, "optimizer", built)
    if isinstance(rule, MuonRule):
        rule.know(pieces_anywhere(module, built, zero_stage), cut=zero_stage > 0)
