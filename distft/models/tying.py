"""Heads of T5's kin that are matrices of their own, where transformers would tie them to the embedding.

Of T5 1.1, flan-T5 and mT5 the head is one of its own. transformers 5 says of every T5 that it is tied, and leaves a
head alone only where it finds it unlike the embedding once both are loaded: sharded ones look empty, and alike, so that
the head would be lost without a word. Here the files say it, and the class that they are loaded with ties no head.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from distft.common.errors import UserError
from distft.planning.model_folders import fetched_folder
from distft.planning.weight_files import tensor_shapes, weight_files

_HEAD, _EMBEDDING = "lm_head.weight", "shared.weight"


def seq2seq_class(path: str, config: Any, *, fetch: bool) -> Any:
    """What loads the encoder-decoder at ``path``, or makes one of that config: where the files hold a head of its own,
    the model's class without the tie; else transformers' auto class. ``fetch``: weights of a hub name that are not on
    this machine are fetched, else the config is believed.

    Raises UserError for weights that cannot be looked into.
    """
    kind = AutoModelForSeq2SeqLM._model_mapping.get(type(config), None)
    if kind is None or _HEAD not in _ties(kind) or not config.tie_word_embeddings:
        return AutoModelForSeq2SeqLM
    folder = _fetched(path) if fetch else fetched_folder(path)
    own = has_own_head(folder) if folder is not None else not getattr(config, "scale_decoder_outputs", False)
    return untied(kind) if own else AutoModelForSeq2SeqLM


def has_own_head(folder: Path) -> bool:
    """Whether the files hold a head that is not the embedding. Raises UserError where they are no safetensors."""
    names = tensor_shapes(folder).keys()
    if not names and any(folder.glob("pytorch_model*.bin")):
        what = "holds its weights as pytorch_model.bin: whether the head is tied to the embedding cannot be seen"
        raise UserError(what, where=str(folder), hint="load it with transformers, and save_pretrained it again")
    if not {_HEAD, _EMBEDDING} <= names:
        return False
    head, embedding = (_tensor(folder, name) for name in (_HEAD, _EMBEDDING))
    return not torch.equal(head, embedding)


def say_untied(model: Any, folder: Path) -> None:
    """Lets the config.json of an export say that the head is the model's own: other releases of transformers believe
    it. Not where T5's decoder output is scaled too, which they would then leave out."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    scaled = getattr(model.config, "scale_decoder_outputs", False)
    if _HEAD in _ties(type(model)) or head is None or head.weight is embedding.weight or scaled:
        return
    file = folder / "config.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    if said.get("tie_word_embeddings") is not False:
        file.write_text(json.dumps(said | {"tie_word_embeddings": False}, indent=2) + "\n", encoding="utf-8")


@cache
def untied(kind: type[Any]) -> type[Any]:
    """That class of an encoder-decoder, its head always one of its own."""
    kept = {name: source for name, source in _ties(kind).items() if name != _HEAD}
    return type(kind.__name__, (kind,), {"_tied_weights_keys": kept, "__module__": kind.__module__})


def _ties(kind: Any) -> dict[str, str]:
    return dict(getattr(kind, "_tied_weights_keys", None) or {})


def _fetched(path: str) -> Path | None:
    """The folder of a model with its weights; None where the hub does not give them: loading it says why."""
    folder = fetched_folder(path)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, allow_patterns=["*.safetensors", "*.json", "pytorch_model*.bin"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):
        return None


def _tensor(folder: Path, name: str) -> Tensor:
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118
                tensor: Tensor = file.get_tensor(name)
                return tensor
    raise KeyError(name)
