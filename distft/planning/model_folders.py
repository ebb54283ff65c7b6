"""Where a model lies on this machine: in a folder of the user's, or in the hub's cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from distft.common.errors import UserError
from distft.common.files import parse_json
from distft.planning.weight_files import COPY_AGAIN, tensor_shapes

# One of these holds a tokenizer's vocabulary.
TOKENIZER_FILES: Final = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "sentencepiece.bpe.model",
)  # fmt: skip
ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
_PICKLED = ("pytorch_model", "adapter_model")


def local_folder(path: str) -> Path | None:
    """Where a model path lies on this machine: the folder itself, or the hub cache's newest snapshot; else None."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if path.count("/") > 1 or path.startswith((".", "/", "~")):
        return None
    cached = _hub_cache() / ("models--" + path.replace("/", "--"))
    reference = cached / "refs" / "main"
    if not reference.is_file():
        return None
    snapshot = cached / "snapshots" / reference.read_text(encoding="utf-8").strip()
    return snapshot if (snapshot / "config.json").is_file() else None


def fetched_folder(path: str) -> Path | None:
    """As ``local_folder``, but a snapshot in the hub's cache only if weights and a tokenizer are in it: whoever asked
    for the config alone left no more there, and a download that was cut off a part.
    """
    folder = local_folder(path)
    if folder is None or Path(path).expanduser().is_dir():
        return folder
    try:
        has_weights = has_weight_files(folder)
    except UserError:
        return None
    return folder if has_weights and has_tokenizer(folder) else None


def has_weight_files(folder: Path) -> bool:
    """Whether weights lie in the folder, as safetensors: nothing else is read. Raises UserError where some of them are
    missing or torn."""
    return bool(tensor_shapes(folder))


def pickled_weights(folder: Path) -> str:
    """The name of a file that holds weights as a pickle, which can run code when it is read; empty without one."""
    return next((path.name for path in sorted(folder.glob("*.bin")) if path.name.startswith(_PICKLED)), "")


def is_adapter(folder: Path) -> bool:
    """Whether an adapter lies in the folder, and no whole model."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer's vocabulary lies in the folder."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _hub_cache() -> Path:
    """The folder that huggingface_hub uses, by its own environment variables."""
    explicit = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(home).expanduser() / "hub"


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises UserError when it is missing or no JSON object."""
    path = folder / "config.json"
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("is not there: this is not a model folder", where=str(path), hint=COPY_AGAIN) from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), hint=COPY_AGAIN) from error
    if not isinstance(config, dict):
        raise UserError("is not a JSON object", where=str(path), hint=COPY_AGAIN)
    return config
