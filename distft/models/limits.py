"""How many tokens and positions a model has, from its config.json: AutoConfig, which imports torch, only in need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distft.common.files import parse_json
from distft.models.families.table import encodes
from distft.planning.model_folders import local_folder
from distft.planning.positions import position_limit


def embedding_rows(path: str, *, trust_remote_code: bool = False) -> int | None:
    """How many tokens the model there knows; None where its config does not say, or is not there."""
    written = _written(path)
    nested = any(isinstance(part, Mapping) and "vocab_size" in part for part in written.values())
    if isinstance(written.get("vocab_size"), int) and not nested:
        return int(written["vocab_size"])
    config = _config(path, trust_remote_code=trust_remote_code)
    rows: int | None = None if config is None else getattr(config.get_text_config(), "vocab_size", None)
    return rows


def is_apart(path: str, *, trust_remote_code: bool = False) -> bool:
    """Whether the model there is an encoder-decoder; False where its config is not there."""
    written = _written(path)
    if written:
        return bool(written.get("is_encoder_decoder"))
    config = _config(path, trust_remote_code=trust_remote_code)
    return bool(getattr(config, "is_encoder_decoder", False))


def learned_positions(path: str, *, trust_remote_code: bool = False) -> int | None:
    """The longest sequence, in tokens, that the model there has positions for; None where they have no end, or its
    config is not there."""
    written = _written(path)
    if "model_type" in written and "auto_map" not in written:
        return position_limit(written)
    config = _config(path, trust_remote_code=trust_remote_code)
    return None if config is None else position_limit(config.to_dict())


def is_encoder(path: str, *, trust_remote_code: bool = False) -> bool:
    """Whether the model there is an encoder; False where its config is not there."""
    written = _written(path)
    if "model_type" in written and "auto_map" not in written:
        return encodes(written)
    config = _config(path, trust_remote_code=trust_remote_code)
    return config is not None and encodes(config.to_dict())


def _written(path: str) -> Mapping[str, Any]:
    """What is written in its config.json; nothing where that cannot be read."""
    folder = local_folder(path)
    try:
        found = parse_json((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _config(path: str, *, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError):  # said when the model is loaded
        return None
