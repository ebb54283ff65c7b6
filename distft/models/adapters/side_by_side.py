"""LoRA adapters on one base, which is held once: they lie beside its weights, unmerged, and one at a time computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distft.common.files import parse_json
from distft.models.adapters.merging import reading
from distft.planning.model_folders import ADAPTER_CONFIG


def lies_beside(folder: str) -> bool:
    """Whether the adapter in a folder is of a kind of which several may lie beside one base."""
    try:
        return bool(parse_json((Path(folder) / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("peft_type") == "LORA")
    except (OSError, ValueError):
        return False


class SideBySide:
    """``model`` with the adapters in ``folders``, which it computes with one at a time, or without any. Raises
    UserError where one is of another model."""

    def __init__(self, model: Any, folders: Sequence[str]) -> None:
        from peft import PeftModel

        self._peft: Any = None
        self._names = {folder: f"number_{number}" for number, folder in enumerate(dict.fromkeys(folders))}
        for folder, name in self._names.items():
            with reading(model, folder):
                if self._peft is None:
                    self._peft = PeftModel.from_pretrained(model, folder, adapter_name=name)
                else:
                    self._peft.load_adapter(folder, adapter_name=name)

    def use(self, folder: str | None) -> None:
        """From now on the model computes with that adapter; None: without."""
        if self._peft is None:
            return
        layers = self._peft.base_model
        if folder is None:
            layers.disable_adapter_layers()
        else:
            layers.enable_adapter_layers()
            layers.set_adapter(self._names[folder], inference_mode=True)
