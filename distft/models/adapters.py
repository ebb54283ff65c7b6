"""Low-rank adapters (LoRA, Hu et al. 2022), by PEFT, which is imported where it is used.

They are injected in place: the model keeps its class and its forward pass, ``q_proj.weight`` becomes
``q_proj.base_layer.weight``, and beside it lie ``q_proj.lora_A.default.weight [r, in]`` and ``lora_B [out, r]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from distft.common.errors import UserError, nearest
from distft.config.models import Lora
from distft.models.quantization import dequantized, was_conv1d

ADAPTER = "default"
_A, _B, _BASE = f"lora_A.{ADAPTER}.weight", f"lora_B.{ADAPTER}.weight", "base_layer."


def add_lora(model: Any, lora: Lora, *, dropout: bool, seed: int) -> None:
    """Freezes the model and gives its linear layers adapters, A drawn from ``seed`` (Kaiming uniform) and B zero.

    A scoring head is trained whole: it is new, or small. Adapters have the model's dtype; their float32
    copies are the optimizer's. Raises UserError for target modules that the model does not have.
    """
    from peft import LoraConfig, inject_adapter_in_model

    def adapters_in(targets: list[str]) -> LoraConfig:
        return LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            use_rslora=lora.rslora,
            lora_dropout=lora.dropout if dropout else 0.0,
            target_modules=targets,
            fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in targets),
        )

    config = adapters_in(_beside_experts(adapters_in(_targets(model, lora)), model, lora))
    model.requires_grad_(requires_grad=False)
    dtype = model.dtype
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # a seed sets every device's generator
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, model)
        except ValueError as error:
            raise UserError(
                f"PEFT puts no such adapter into {type(model).__name__}: {error}",
                where="target_modules of the adapters",
                hint="name other layers, or train the whole model: peft=null",
            ) from error
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(requires_grad=True)
    for head in scoring_heads(model):
        head.requires_grad_(requires_grad=True)


def scoring_heads(model: Any) -> list[nn.Module]:
    """What turns states into scores: all that lies beside the backbone, and an encoder's pooler in it. None of a
    language model."""
    backbone = getattr(model, model.base_model_prefix, None)
    if backbone is None or model.get_output_embeddings() is not None:
        return []
    pooler = getattr(backbone, "pooler", None)
    return [part for part in (*model.children(), pooler) if part is not None and part is not backbone]


def merge_adapter(model: Any, folder: str) -> Any:
    """The model with a PEFT adapter's update added to its weights, for computing only. Raises UserError where the
    folder holds none, or that of another model.
    """
    from peft import PeftModel

    if not (Path(folder) / "adapter_model.safetensors").is_file():
        what = "has no adapter_model.safetensors, and a pickle can run code when it is read"
        raise UserError(what, where=folder, hint="load it with PEFT, and save_pretrained it again")
    try:
        adapted: Any = PeftModel.from_pretrained(model, folder)
        return adapted.merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot be put into {type(model).__name__}: {reason}",
            where=folder,
            hint="is it a PEFT adapter (adapter_config.json) that was trained from this model?",
        ) from error


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """While open, the module computes what its frozen base computes; for forward passes without gradients only."""
    layers: list[Any] = [part for part in module.modules() if hasattr(part, "lora_A")]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)


def is_adapter(name: str) -> bool:
    """Whether the parameter of that name belongs to an adapter."""
    return name.endswith((_A, _B))


def plain_tensors(tensors: Iterable[tuple[str, Tensor]], model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The same model without adapters and quantization: W + scale * B A under the names that it had without them.

    ``tensors`` are all parameters of ``model``, whole, in the order of its modules. The sum is formed in float32
    and rounded to the model's dtype once.
    """
    layers = {name: part for name, part in model.named_modules() if hasattr(part, "lora_A")}
    waiting: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if is_adapter(name):
            layer, _, factor = name.rpartition(".lora_")
            waiting[factor[0]] = tensor.detach().clone()
            if len(waiting) == 3:
                merged = _merged(layers[layer], waiting)
                yield f"{layer}.weight", merged.T.contiguous() if was_conv1d(layers[layer].base_layer) else merged
                waiting = {}
        elif _BASE in name and name.endswith(".weight"):
            waiting["W"] = dequantized(model.get_submodule(name.removesuffix(".weight")), tensor).clone()
        elif name.endswith(".weight"):
            owner = model.get_submodule(name.removesuffix(".weight"))
            whole = dequantized(owner, tensor)
            yield name, whole.T.contiguous() if was_conv1d(owner) else whole
        else:
            yield name.replace(_BASE, ""), tensor


def _merged(layer: Any, parts: dict[str, Tensor]) -> Tensor:
    weight = parts["W"]
    update = layer.scaling[ADAPTER] * parts["B"].float() @ parts["A"].float()
    merged: Tensor = weight.float() + (update.T if layer.fan_in_fan_out else update)
    return merged.to(weight.dtype)


def _beside_experts(config: Any, model: Any, lora: Lora) -> list[str]:
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
    if not kept or (taken and lora.target_modules != "all-linear"):
        raise UserError(
            f"PEFT takes {', '.join(sorted(taken))} of {type(model).__name__} for its experts, which get no adapters",
            where="target_modules of the adapters",
            hint="name layers of the attention, or all-linear",
        )
    return sorted(kept)


def _targets(model: Any, lora: Lora) -> list[str]:
    """Full names of the layers that get an adapter. Raises UserError."""
    of_heads = [part for head in scoring_heads(model) for part in head.modules()]
    heads = (model.get_output_embeddings(), *of_heads)
    linear = [
        name
        for name, part in model.named_modules()
        if isinstance(part, (nn.Linear, Conv1D)) and all(part is not head for head in heads)
    ]
    if lora.target_modules == "all-linear":
        return linear
    known = dict.fromkeys(name.rpartition(".")[2] for name in linear)
    for wanted in lora.target_modules:
        if wanted not in known:
            close = nearest(wanted, known)
            raise UserError(
                f"{type(model).__name__} has no linear layer {wanted}",
                where="target_modules of the adapters",
                hint=f"did you mean {close}?" if close else f"it has: {', '.join(known)}",
            )
    return [name for name in linear if name.rpartition(".")[2] in lora.target_modules]
