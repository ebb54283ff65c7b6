"""What ``adapter_config.json`` says of adapters that PEFT does not have."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distft.planning.model_folders import ADAPTER_CONFIG


@dataclass
class OwnConfig:
    """``adapter``: its section of the recipe; the rest are the keys that PEFT's have and readers look for."""

    adapter: dict[str, Any]
    peft_type: str
    base_model_name_or_path: str | None = None
    task_type: str | None = None
    inference_mode: bool = False
    modules_to_save: list[str] | None = None

    def save_pretrained(self, folder: str) -> None:
        """Writes it."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        written = json.dumps(asdict(self), indent=2, sort_keys=True)
        (Path(folder) / ADAPTER_CONFIG).write_text(written, encoding="utf-8")
