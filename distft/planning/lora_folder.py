"""A LoRA adapter as PEFT writes it: where it lies beside a finished model, what it is and over which base it was
trained, told without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from distft.common.errors import UserError
from distft.common.files import parse_json
from distft.config.adapters.lora import Lora
from distft.planning.model_folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, local_folder

# Keys of PEFT's with which it computes something else, where they say anything.
_OTHERWISE: Final = (
    "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform", "exclude_modules", "target_parameters",
    "trainable_token_indices", "lora_bias", "megatron_config", "layer_replication", "corda_config", "eva_config",
)  # fmt: skip


@dataclass(frozen=True)
class LoraFolder:
    """``lora``: what lies in ``folder``, trained over the model that was called ``base``."""

    folder: Path
    lora: Lora
    base: str


def lora_beside(path: str, where: str) -> LoraFolder:
    """The adapter beside the finished model at ``path``, a folder or hub name, which ``where`` names for messages.

    Raises UserError where there is none, or none of the plain kind that ``models.<role>.peft: {method: lora}`` trains.
    """
    model = local_folder(path)
    folder = (model or Path(path)) / "adapter"
    try:
        said = parse_json((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        said = None
    if not isinstance(said, dict) or not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(
            f"has no adapter beside it ({folder})",
            where=where,
            hint="train it with adapters over the policy's start, models.reward.peft.method=lora; or "
            "placement.reward.share=null placement.reward.with=policy gives it a group of its own",
        )
    return LoraFolder(folder, _lora(said, folder, where), str(said.get("base_model_name_or_path") or ""))


def _lora(said: dict[str, Any], folder: Path, where: str) -> Lora:
    kind, targets = said.get("peft_type"), said.get("target_modules")
    unlike = sorted(key for key in _OTHERWISE if said.get(key))
    if kind != "LORA" or unlike or said.get("bias", "none") != "none" or not isinstance(targets, list):
        what = f"{folder} holds {kind}" + (f" with {', '.join(unlike)}" if unlike else "")
        raise UserError(f"{what}: plain LoRA can lie over another model's base", where=where, hint=_OWN_GROUP)
    layers = sorted({str(name).rpartition(".")[2] for name in targets})
    try:
        return Lora(r=said["r"], alpha=said["lora_alpha"], rslora=bool(said.get("use_rslora")),
                    target_modules=tuple(layers))  # fmt: skip
    except (KeyError, ValidationError) as error:
        raise UserError(f"{folder / ADAPTER_CONFIG} cannot be read: {error}", where=where, hint=_OWN_GROUP) from error


_OWN_GROUP: Final = "placement.reward.share=null placement.reward.with=policy gives it a group of its own"
