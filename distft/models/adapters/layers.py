"""What kinds of adapters that lie beside linear layers have in common: which layers, and PEFT, which puts them there.

They are injected in place: the model keeps its class and its forward pass, ``q_proj.weight`` becomes
``q_proj.base_layer.weight``, and what is trained lies beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any, Final

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from distft.common.errors import UserError, nearest
from distft.config.adapters.adapter import Layers

ADAPTER: Final = "default"
WRAPPED: Final = "base_model.model"  # where a model lies in PEFT's
WHERE: Final = "target_modules of the adapters"


def inject(model: Any, layers: Layers, settings: Callable[[list[str]], Any], seed: int) -> None:
    """Puts adapters into those layers, drawn from ``seed``. ``settings``: PEFT's, of the full names of some of them.

    Raises UserError for layers that the model does not have, or that PEFT does not take.
    """
    from peft import inject_adapter_in_model

    config = settings(_beside_experts(settings(targets(model, layers.named)), model, layers.named))
    with drawing(seed):
        try:
            inject_adapter_in_model(config, model)
        except ValueError as error:
            raise UserError(
                f"PEFT puts no such adapter into {type(model).__name__}: {error}",
                where=WHERE,
                hint="name other layers, or train the whole model: peft=null",
            ) from error


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Random numbers within follow from ``seed``; those behind go on as if there had been none."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # a seed sets every device's generator
        torch.manual_seed(seed)
        yield


def drawn_on(device: torch.device) -> torch.device:
    """Where to draw what is for ``device``, so that it is the same for every accelerator."""
    return torch.device("meta" if device.type == "meta" else "cpu")


def without_adapter_name(name: str) -> str:
    """PEFT's name in a file of a parameter that lies in its layer itself."""
    return f"{WRAPPED}.{name.removesuffix(f'.{ADAPTER}')}"


def stored_transposed(model: Any, names: list[str]) -> bool:
    """Whether one of those layers is GPT-2's ``Conv1D``, whose weight is ``[in, out]``."""
    return any(isinstance(model.get_submodule(name), Conv1D) for name in names)


def scoring_heads(model: Any) -> list[nn.Module]:
    """What turns states into scores: all that lies beside the backbone, and an encoder's pooler in it. None of a
    language model."""
    backbone = getattr(model, model.base_model_prefix, None)
    if backbone is None or model.get_output_embeddings() is not None:
        return []
    pooler = getattr(backbone, "pooler", None)
    return [part for part in (*model.children(), pooler) if part is not None and part is not backbone]


def _beside_experts(config: Any, model: Any, named: tuple[str, ...] | None) -> list[str]:
    """The targets that PEFT leaves what they are. Of DeepSeek, GLM and kin it takes feed-forward layers that are no
    mixture for former names of the stacked experts, whenever such an adapter is made or read, and would adapt those.
    Raises UserError where such layers were named.
    """
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    tried = deepcopy(config)
    with suppress(ValueError):  # of two names that became one tensor only one is there
        convert_peft_config_for_transformers(tried, model=model, conversions=None)
    kept = set(config.target_modules) & set(tried.target_modules)
    taken = {name.rpartition(".")[2] for name in set(config.target_modules) - kept}
    if not kept or (taken and named is not None):
        raise UserError(
            f"PEFT takes {', '.join(sorted(taken))} of {type(model).__name__} for its experts, which get no adapters",
            where=WHERE,
            hint="name layers of the attention, or all-linear",
        )
    return sorted(kept)


def targets(model: Any, named: tuple[str, ...] | None) -> list[str]:
    """Full names of the layers that get an adapter. Raises UserError."""
    of_heads = [part for head in scoring_heads(model) for part in head.modules()]
    heads = (model.get_output_embeddings(), *of_heads)
    linear = [
        name
        for name, part in model.named_modules()
        if isinstance(part, (nn.Linear, Conv1D)) and all(part is not head for head in heads)
    ]
    if named is None:
        return linear
    known = dict.fromkeys(name.rpartition(".")[2] for name in linear)
    for wanted in named:
        if wanted not in known:
            close = nearest(wanted, known)
            raise UserError(
                f"{type(model).__name__} has no linear layer {wanted}",
                where=WHERE,
                hint=f"did you mean {close}?" if close else f"it has: {', '.join(known)}",
            )
    return [name for name in linear if name.rpartition(".")[2] in named]
